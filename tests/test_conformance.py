"""Every component of the package passes its conformance suite; so do three components from outside."""

import attrs
import pytest
import torch

import exml
from exml import augmentation, baselines, buffers, calibrations, combiners, generators, losses, normalizers, priors
from exml.core.registry import _KINDS
from exml.testing import (
    benchmark,
    check_augmentation,
    check_baseline,
    check_buffer,
    check_calibration,
    check_combiner,
    check_component,
    check_generator,
    check_loss,
    check_normalizer,
    check_prior,
    tiny_expert,
)
from tests.helpers import SHAPE, experts, network, strategy

SUITES = {
    check_baseline: [
        baselines.EnsembleAverage(space="probabilities", units="known"),
        baselines.MinEntropy(),
        baselines.Oracle(),
        baselines.ParameterAverage(),
    ],
    check_normalizer: [
        normalizers.RawLogits(),
        normalizers.CenterLogits(),
        normalizers.StandardizeLogits(eps=1e-5),
        normalizers.L2NormalizeLogits(eps=1e-5),
    ],
    check_combiner: [combiners.ByClass(units="present"), combiners.SideBySide(), combiners.ProductOfExperts()],
    check_calibration: [
        calibrations.CommonScale(steps, drawings=generators.EvolvedDrawings(steps=2, pool=20))
        for steps in (calibrations.STEPS, [calibrations.Probabilities()], [calibrations.TwoAnchors()])
    ],
    check_loss: [
        losses.MeanSquaredError(classes="all"),
        losses.CrossEntropy(),
        losses.KLDivergence(temperature=3.0),
        losses.Distillation(cross_entropy=0.5),
        losses.Sum((losses.MeanSquaredError(), losses.Weighted(losses.CrossEntropy(), 2.0))),
        losses.Weighted(losses.MeanSquaredError(), 0.5),
    ],
    check_prior: [
        priors.L2Norm(0.1),
        priors.GaussianBlur(0.1, kernel_size=5, sigma=2.0),
        priors.GaussianBlur(0.1, operator="kornia"),
        priors.TotalVariation(0.1),
        priors.BatchNormStatistics(0.1, layers="last"),
        priors.Sum((priors.L2Norm(0.1), priors.BatchNormStatistics(2.0))),
        priors.Weighted(priors.L2Norm(0.1), 3.0),
    ],
    check_augmentation: [
        augmentation.Augmentation(shift=2, rotation=10.0, flip=0.5, brightness=0.1),
        augmentation.Chain((augmentation.Augmentation(shift=1), augmentation.Augmentation(flip=0.5))),
        augmentation.Kornia("RandomAffine", {"degrees": 20.0, "p": 1.0}),
    ],
    check_buffer: [
        buffers.Cumulative(9),
        buffers.EqualParts(9),
        buffers.ClassBalanced(9),
        buffers.Latest(5),
        buffers.Reservoir(9, 5),
        buffers.Unbounded(5),
    ],
    check_generator: [
        generators.ModelInversion(iterations=2, batch_size=4),
        generators.ModelInversion(iterations=2, start=generators.ProceduralImages(), stop_at=0.9, clamp=3.0),
        generators.DataImpression(beta=1.0, iterations=2, batch_size=4),
        generators.GaussianNoise(std=0.5),
        generators.EvolvedDrawings(steps=2, pool=10, polarity="any"),
        generators.BufferedImages(first=generators.GaussianNoise()),
        generators.ProceduralImages(kinds=("strokes", "noise")),
        generators.AuxiliaryData(generators.PhotoPatches((1, 8, 8), count=40)),
        generators.Mixture((generators.GaussianNoise(), generators.ProceduralImages()), weights=(0.3, 0.7)),
    ],
}
"""Components by the suite that checks them."""


@pytest.mark.parametrize(
    ("check", "part"),
    [(check, part) for check, parts in SUITES.items() for part in parts],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_components_conform(check, part):
    check(part)


def test_multi_task():
    check_combiner(combiners.MultiTask(((0, 1, 2), (3, 4))), tasks=True)


def test_no_component_is_left_out():
    checked = {type(part) for parts in SUITES.values() for part in parts}
    checked |= {type(step) for scale in SUITES[check_calibration] for step in scale.steps}
    checked |= {combiners.MultiTask, generators.Replay}  # the one above, and one that needs real images of its expert
    rooms = (augmentation, baselines, buffers, calibrations, combiners, generators, losses, normalizers, priors)
    families = {cls for cls in _KINDS.values() if cls.__module__.startswith(tuple(room.__name__ for room in rooms))}
    assert families - {generators.DatasetImages, generators.ImageFile, generators.PhotoPatches} == checked


# --- from outside the package ---------------------------------------------------------------------------------------


@exml.component
@attrs.frozen
class Bright:
    """A prior."""

    weight: float

    reads_activations = False

    def __call__(self, images, activations, /):
        return self.weight * images.flatten(1).mean(1).square().mean()


@exml.component
@attrs.frozen
class Loudest:
    """A combiner: each class has the larger of the two teachers' logits."""

    floor: float = -9.0

    def __call__(self, previous, expert, samples, /):
        lowest = torch.full_like(expert.logits, self.floor)
        largest = torch.maximum(
            torch.where(previous.known, previous.logits, lowest), torch.where(expert.known, expert.logits, lowest)
        )
        seen = (previous.known | expert.known).expand_as(largest)
        return exml.core.targets.Target(torch.where(seen, largest, 0.0), seen, seen)


@exml.component
@attrs.frozen
class Bars:
    """A generator."""

    width: int = 2

    uses_priors = False
    uses_real_data = False

    def __call__(self, expert, size, seed, context=None, /):
        draw = torch.Generator().manual_seed(seed)
        columns = torch.rand(size, 1, 1, expert.image_shape[2], generator=draw)
        images = columns.expand(size, *expert.image_shape).contiguous()
        with torch.no_grad(), exml.engine.frozen(expert.module):
            labels = expert.predicted_ids(images)
        return exml.Samples.of(images, labels, task=expert.task)


def test_three_components_from_outside_plug_in():
    check_prior(Bright(0.1))
    check_combiner(Loudest())
    check_generator(Bars(3))
    ours = strategy(generator=generators.Mixture((Bars(), generators.ModelInversion(iterations=2))), combiner=Loudest())
    chosen = attrs.evolve(ours, prior=priors.Sum((Bright(0.5), priors.L2Norm(0.1))))
    assert exml.Strategy.from_yaml(chosen.to_yaml()) == chosen
    learner = exml.Learner(chosen, network())
    learner.learn_stream(exml.ExpertStream.from_experts(experts()))
    assert learner.classes_seen == tuple(range(6))
    assert learner.memory.images.shape[1:] == SHAPE


# --- the suites can fail --------------------------------------------------------------------------------------------


def faulty(role, call, decorate=attrs.frozen, **attributes):
    """A component of a role with one fault."""
    cls = decorate(type(f"Faulty{role}{len(_KINDS)}", (), {"__call__": call, "__annotations__": {}, **attributes}))
    return (exml.component(cls) if decorate is attrs.frozen else cls)()


def prior(role, call, reads_activations=False):
    return faulty(role, call, reads_activations=reads_activations)


def deviation(activations):
    return sum((part.input.mean((0, 2, 3)) - part.running_mean).square().sum() for part in activations)


def alike(images, tasks):
    """Scores that depend on the batch."""
    return images.mean().expand(len(images), 6)


@pytest.mark.parametrize(
    ("check", "part", "words"),
    [
        (check_prior, lambda: prior("a", lambda s, x, a, /: x.sum()), "average over the batch"),
        (check_prior, lambda: prior("b", lambda s, x, a, /: x.square().sum((1, 2, 3))), "0-dim"),
        (check_prior, lambda: prior("c", lambda s, x, a, /: x.detach().mean() ** 2), "grad"),
        (
            check_prior,
            lambda: prior("k", lambda s, x, a, /: deviation(a), reads_activations=True),
            "ranks share a batch",
        ),
        (check_normalizer, lambda: faulty("d", lambda s, x, k, /: x - x.mean(1, keepdim=True)), "known classes only"),
        (check_normalizer, lambda: faulty("e", lambda s, x, k, /: x - x.mean()), "each row by itself"),
        (check_normalizer, lambda: faulty("f", lambda s, x, k, /: -x), "order"),
        (check_loss, lambda: faulty("g", lambda s, x, t, y, /: -(x - t.logits).square().sum()), "average"),
        (check_augmentation, lambda: faulty("h", lambda s, x, g, /: x + torch.rand(1, generator=g)), "every image"),
        (check_augmentation, lambda: faulty("i", lambda s, x, g, /: x + torch.rand(x.shape)), "same generator"),
        (check_combiner, lambda: losses.MeanSquaredError(), "call of a combiner"),
        (check_combiner, lambda: faulty("l", lambda s, p, e, x, /: e.logits), "return a Target, got Tensor; remedy: "),
        (
            check_generator,
            lambda: faulty("m", lambda s, e, n, d, c=None, /: e, uses_priors=False, uses_real_data=False),
            "return Samples, got Expert; remedy: ",
        ),
        (
            check_baseline,
            lambda: faulty("n", lambda s, e, n, /: alike, ex_model=False, needs_experience=False),
            "treat each image by itself; remedy: ",
        ),
    ],
)
def test_the_suites_find_faults(check, part, words):
    with pytest.raises((AssertionError, RuntimeError), match=words):
        check(part())


def test_a_loose_class_is_no_component():
    with pytest.raises(AssertionError, match="attrs"):
        check_component(faulty("j", lambda s, x, k, /: x, decorate=lambda cls: cls), "normalizer")


# --- the benchmark --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [Bright(0.1), augmentation.Augmentation(shift=1), Bars()], ids=repr)
def test_a_part_is_timed_next_to_the_bare_step_and_the_built_in_ones(part):
    expert = tiny_expert()
    before = {name: tensor.clone() for name, tensor in expert.module.state_dict().items()}
    found = benchmark(part, expert=expert, batch_size=4, rounds=2)
    assert found.rows[0].part == "bare step"
    assert found.rows[1].part.startswith(type(part).__name__)
    assert len(found.rows) > 4
    assert all(row.quartiles[0] <= row.milliseconds <= row.quartiles[1] for row in found.rows)
    assert all(torch.equal(before[name], tensor) for name, tensor in expert.module.state_dict().items())


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            lambda: prior("o", lambda s, x, a, /: (100 if x.dtype == torch.float32 else 1) * x.square().mean()),
            "float64, got",
        ),
        (lambda: faulty("p", lambda s, x, g, /: x + torch.rand(x.shape)), "same generator; remedy"),
    ],
)
def test_results_are_checked_after_timing(part, words):
    with pytest.raises(AssertionError, match=words):
        benchmark(part(), expert=tiny_expert(), batch_size=4, rounds=2)


def test_other_families_are_not_timed():
    with pytest.raises(exml.core.errors.SettingError, match="prior, augmentation, generator"):
        benchmark(losses.MeanSquaredError())
