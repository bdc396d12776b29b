"""Every component of the package passes its conformance suite; so do three components from outside."""

import attrs
import pytest
import torch
from torch.nn.functional import conv2d

import exml
from exml import augmentation, baselines, buffers, calibrations, combiners, generators, losses, normalizers, priors
from exml.core.registry import _KINDS
from exml.testing import (
    benchmark,
    benchmarks,
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


KERNEL = torch.ones(1, 3, 3, 3)


# --- the suites can fail --------------------------------------------------------------------------------------------


def faulty(role, call, decorate=attrs.frozen, **attributes):
    """A component of a role with one fault."""
    cls = decorate(type(f"Faulty{role}{len(_KINDS)}", (), {"__call__": call, "__annotations__": {}, **attributes}))
    return (exml.component(cls) if decorate is attrs.frozen else cls)()


def prior(role, call, reads_activations=False):
    return faulty(role, call, reads_activations=reads_activations)


def deviation(activations):
    return sum((part.input.mean((0, 2, 3)) - part.running_mean).square().sum() for part in activations)


def generator(role, call):
    """A generator whose call gets the expert, the number of images and a random generator of the seed."""

    def made(self, expert, size, seed, context=None, /):
        return call(expert, size, torch.Generator().manual_seed(seed))

    return faulty(role, made, uses_priors=False, uses_real_data=False)


def drawn(expert, size, draws):
    return torch.rand(size, *expert.image_shape, generator=draws)


def labels_1(images):
    return exml.Samples.of(images, torch.ones(len(images)).long(), task=2)


def reseeding(expert, size, draws):
    torch.manual_seed(0)
    return generators.labeled(expert, drawn(expert, size, draws))


def training(expert, size, draws):
    samples = generators.labeled(expert, drawn(expert, size, draws))
    expert.module.train()
    return samples


def buffer(role, call, share=lambda self, experience, /: 6, **attributes):
    return faulty(role, call, share=share, **attributes)


def shifting(self, memory, new, draws, /):
    new.images.add_(0.001)
    return new


def everything(self, memory, new, draws, /):
    return new if memory is None else exml.Samples.concat([memory, new])


def combiner(role, change):
    """A combiner that changes the target of a sound one."""

    def combine(self, previous, expert, samples, /):
        target = combiners.ByClass()(previous, expert, samples)
        return attrs.evolve(target, logits=change(target.logits) * target.defined)

    return faulty(role, combine)


def in_place(self, previous, expert, samples, /):
    expert.logits.mul_(2)
    return combiners.ByClass()(previous, expert, samples)


def setting(value, kind=float):
    """A prior with a field."""
    cls = attrs.make_class(
        f"Set{len(_KINDS)}",
        {"weight": attrs.field(type=kind)},
        bases=(Base,),
        frozen=True,
    )
    return exml.component(cls)(value)


class Base:
    reads_activations = False

    def __call__(self, images, activations, /):
        return images.square().mean()


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
        (
            check_combiner,
            lambda: faulty("l", lambda s, p, e, x, /: e.logits),
            r"return a Target, got \(6, 6\) torch.float32; remedy: ",
        ),
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
        (
            check_prior,
            lambda: priors.L2Norm,
            "L2Norm must be an instance, got the class itself; remedy: pass",
        ),
        (check_prior, lambda: prior("q", lambda s, x, a, /: 0.5), "return a 0-dimensional penalty, got float; remedy"),
        (check_prior, lambda: prior("r", lambda s, x, a, /: None), "return a 0-dimensional penalty, got None; remedy"),
        (
            check_prior,
            lambda: prior("s", lambda s, x, a, /: x.square().sum((1, 2, 3)).sqrt().mean()),
            "images of one color, got NaN or infinity where all pixels are 0; remedy: add an epsilon",
        ),
        (
            check_prior,
            lambda: prior("t", lambda s, x, a, /: conv2d(x, KERNEL).square().mean()),
            "support float64 images, got RuntimeError: .*; remedy: create tensors .*in the type of the images",
        ),
        (
            check_prior,
            lambda: prior("u", lambda s, x, a, /: x.float().square().mean()),
            r"penalty of the type of the images, got torch\.float32; remedy",
        ),
        (
            check_prior,
            lambda: setting(abs),
            "YAML can store, got weight of type builtin_function_or",
        ),
        (check_prior, lambda: setting([1.0]), "YAML can store, got weight of type list; remedy: use None"),
        (check_prior, lambda: setting(KERNEL), "YAML can store, got weight of type Tensor; remedy: use"),
        (check_prior, lambda: setting(1.0, complex), "serialize: expected a field .* got .*complex.*annotate"),
        (check_prior, lambda: setting(1.0, set[float]), "serialize, got TypeError.*; remedy: annotate"),
        (
            check_generator,
            lambda: generator("v", lambda e, n, g: generators.labeled(e, drawn(e, n, g)[:, :, 1:])),
            r"make samples: expected float32 images \(batch, 1, 8, 8\) to label, got \(7, 1, 7, 8\).*; remedy: make",
        ),
        (
            check_generator,
            lambda: generator("w", lambda e, n, g: generators.labeled(e, (255 * drawn(e, n, g)).byte().float())),
            "pixel units, from 0 to 1, got values from 2 to 254; remedy: divide values up to 255 by 255",
        ),
        (
            check_generator,
            lambda: generator("x", lambda e, n, g: labels_1(drawn(e, n, g).byte())),
            r"make float32 images, got torch\.uint8; remedy: divide values up to 255 by 255",
        ),
        (check_generator, lambda: generator("y", reseeding), "global generator alone; remedy: draw from exml"),
        (
            check_generator,
            lambda: generator("z", training),
            "restore the expert's mode and gradient flags; rem",
        ),
        (
            check_combiner,
            lambda: combiner("aa", lambda x: x + torch.rand(1)),
            "same target for the same logits; remedy",
        ),
        (
            check_combiner,
            lambda: combiner("ab", lambda x: x.cumsum(0)),
            "keep the order of the images; remedy",
        ),
        (check_combiner, lambda: faulty("ac", in_place), "not change its arguments; remedy: avoid in-place operations"),
        (
            check_buffer,
            lambda: buffer("ad", everything, share=lambda s, i, /: 10 / i),
            r"got 10\.0; remedy",
        ),
        (
            check_buffer,
            lambda: buffer("ae", lambda s, m, n, g, /: n[:0]),
            "at least one sample; remedy",
        ),
        (check_buffer, lambda: buffer("af", lambda s, m, n, g, /: None), "return Samples, got None; remedy: index"),
        (check_buffer, lambda: buffer("ag", shifting), "not change memory or new in place; remedy: return rows"),
        (
            check_buffer,
            lambda: buffer("ah", everything, size=8),
            "its size, 8 samples, got 12; remedy",
        ),
        (check_loss, lambda: faulty("ai", lambda s, x, t, y, /: 0.5), "return a 0-dimensional loss, got float; remedy"),
        (check_normalizer, lambda: faulty("aj", lambda s, x, k, /: None), "shape of the logits, got None; remedy"),
        (check_augmentation, lambda: faulty("ak", lambda s, x, g, /: None), "keep shape and type, got None; remedy"),
        (
            check_calibration,
            lambda: faulty("al", lambda s, e, n, w=None, /: None),
            "an Expert, got None; remedy",
        ),
        (
            check_baseline,
            lambda: faulty("am", lambda s, e, n, /: lambda x, t: None, ex_model=False, needs_experience=False),
            "score every class for every image, got None; remedy",
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
        (
            lambda: prior("an", lambda s, x, a, /: x.square().mean((1, 2, 3))),
            "scalar outputs; remedy: pass .*_prior",
        ),
        (
            lambda: prior("ao", lambda s, x, a, /: conv2d(x, KERNEL[:, :1]).square().mean()),
            "support float64 images",
        ),
    ],
)
def test_results_are_checked_after_timing(part, words):
    with pytest.raises(AssertionError, match=words):
        benchmark(part(), expert=tiny_expert(), batch_size=4, rounds=2)


def test_the_bare_step_of_a_generator_is_one_forward_pass(monkeypatch):
    passes = []
    expert = tiny_expert()
    expert.module.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setitem(benchmarks.BUILT_IN, "generator", ())
    quiet = generator("ap", lambda e, n, g: labels_1(drawn(e, n, g)))
    benchmark(quiet, expert=expert, batch_size=4, rounds=3)
    assert len(passes) == 2 * 3  # half of them are not timed


def test_other_families_are_not_timed():
    with pytest.raises(exml.core.errors.SettingError, match="prior, augmentation, generator"):
        benchmark(losses.MeanSquaredError())
