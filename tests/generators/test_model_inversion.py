"""Model inversion: its objective against the formula, its mini-batches, its early stop, and a kill anywhere."""

from itertools import pairwise

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from exml.core.errors import NonFiniteError, ShapeError
from exml.core.samples import Samples
from exml.experts import Expert
from exml.generators import DataImpression, ModelInversion
from exml.protocols import GenerationContext
from tests.generators.helpers import Ends, KilledError, KillingJournal, expert, hooks_of, snapshot_of


class Given:
    """Starts from given pixels; its labels are nonsense, and it counts its calls."""

    uses_priors = False
    uses_real_data = False

    def __init__(self, images):
        self.images, self.calls = images, 0

    def __call__(self, expert, size, seed, context=None, /):
        self.calls += 1
        return Samples.of(self.images[:size], torch.full((size,), 99))


class Statistics:
    reads_activations = True

    def __call__(self, images, activations, /):
        return sum((a.input.mean((0, 2, 3)) - a.running_mean).square().sum() for a in activations)


def jitter(images, generator, /):
    return images + 0.1 * torch.randn(images.shape, generator=generator, device=images.device)


def linear(classes=(7, 2), outputs=(0, 2, 7, None), **card):
    return Expert(nn.Sequential(nn.Flatten(), nn.Linear(16, len(outputs))), classes, (1, 4, 4), outputs=outputs, **card)


def probabilities(some, samples, units=None):
    with torch.no_grad():
        logits = some.logits(samples.images)
        logits = logits if units is None else logits[:, units]
        return logits.softmax(1)


@pytest.mark.parametrize(("classes", "units", "wanted"), [("all", [0, 1, 2, 3], [2, 1]), ("known", [2, 1], [0, 1])])
def test_one_step_is_that_of_the_formula(classes, units, wanted):
    """Cross-entropy over f(x) / τ, plus the squared norm; the first step of Adam is g / (|g| + ε)."""
    some, tau, weight = linear(mean=(0.4,), std=(0.2,)), 3.0, 0.01
    start = torch.rand(5, 1, 4, 4)

    class Norm:
        reads_activations = False

        def __call__(self, images, activations, /):
            return weight * images.square().sum((1, 2, 3)).mean()

    generator = ModelInversion(
        iterations=1, learning_rate=0.5, temperature=tau, batch_size=2, start=Given(start), classes=classes
    )
    samples = generator(some, 5, 0, GenerationContext(prior=Norm()))
    assert samples.labels.tolist() == [7, 2, 7, 2, 7]

    matrix, bias = (weights.detach().double().numpy()[units] for weights in some.module[1].parameters())
    z = (start.double().numpy().reshape(5, 16) - 0.4) / 0.2
    logits = (z @ matrix.T + bias) / tau
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    onehot = np.eye(len(units))[[wanted[k % 2] for k in range(5)]]
    gradient = (p - onehot) @ matrix / tau + 2 * weight * z
    sure = np.abs(gradient) > 1e-4  # below, the sign is a matter of rounding
    assert sure.mean() > 0.9
    expected = (z - 0.5 * gradient / (np.abs(gradient) + 1e-8)) * 0.2 + 0.4
    np.testing.assert_allclose(samples.images.numpy().reshape(5, 16)[sure], expected[sure], atol=1e-5)


def test_raises_the_probability_of_classes_balanced_in_every_mini_batch():
    some = expert(classes=(2, 5, 7), outputs=range(9))
    samples = ModelInversion(iterations=100, learning_rate=0.3, batch_size=6)(some, 20, 0)
    assert samples.labels.tolist() == [2, 5, 7] * 6 + [2, 5]
    some.module.eval()
    own = probabilities(some, samples).gather(1, samples.labels[:, None])
    assert own.min() > 0.9


@pytest.mark.parametrize("generator", [ModelInversion(iterations=1), DataImpression(iterations=1, beta=1000.0)])
def test_fewer_images_than_classes_are_spread_over_all(generator):
    some = expert(classes=tuple(range(10)))
    found = [sorted(generator(some, 4, seed).labels.tolist()) for seed in range(5)]
    assert all(len(set(labels)) == 4 for labels in found)
    assert len(set(map(tuple, found))) > 1
    assert {label for labels in found for label in labels} - {0, 1, 2, 3}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_mini_batches_change_nothing_but_the_sizes(batch_size):
    some, start, sizes = expert(), torch.rand(7, 1, 6, 6), []
    settings = ModelInversion(iterations=3, start=Given(start))
    whole = settings(some, 7, 0)
    some.module.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    parts = attrs.evolve(settings, batch_size=batch_size)(some, 7, 0)
    torch.testing.assert_close(parts.images, whole.images, atol=1e-5, rtol=0)
    assert sizes[1:] == [len(part) for part in torch.arange(7).split(batch_size) for _ in range(3)]


def test_finished_images_leave_their_mini_batch():
    some, sizes = linear(classes=(0, 1), outputs=(0, 1)), []
    some.module.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    samples = ModelInversion(iterations=500, batch_size=8, stop_at=0.9, start=Given(torch.rand(16, 1, 4, 4)))(
        some, 16, 0
    )
    begins = [step for step in range(len(sizes)) if sizes[step] == 8 and (step == 0 or sizes[step - 1] < 8)]
    assert len(begins) == 2
    assert len(sizes) < 200
    assert all(now >= after for now, after in pairwise(sizes) if after != 8)
    own = probabilities(some, samples).gather(1, samples.labels[:, None])
    assert own.min() > 0.9
    assert own.max() < 0.98  # at the first step above 0.9, without the stop it would be at 1


def test_stop_looks_at_the_classes_that_the_loss_looks_at():
    some = linear()
    known = ModelInversion(iterations=500, learning_rate=0.01, stop_at=0.9, classes="known")(some, 4, 0)
    units = torch.tensor([[2], [1]] * 2)
    among_known = probabilities(some, known, units=[2, 1]).gather(1, torch.tensor([[0], [1]] * 2))
    assert among_known.min() > 0.9
    assert among_known.max() < 0.92
    assert probabilities(some, known).gather(1, units).min() < 0.9


def test_clamp_is_in_normalised_units():
    some = expert()
    images = ModelInversion(iterations=30, clamp=0.25)(some, 4, 0).images
    assert some.normalize(images).abs().max().item() == pytest.approx(0.25, abs=1e-5)


def test_start_gives_pixels_and_its_labels_are_not_used():
    start = Given(torch.rand(4, 1, 6, 6))
    samples = ModelInversion(iterations=1, learning_rate=1e-6, start=start)(expert(), 4, 0)
    torch.testing.assert_close(samples.images, start.images, atol=1e-4, rtol=0)
    assert samples.labels.tolist() == [2, 5, 7, 2]


def test_start_is_normal_noise_by_default():
    some = expert()
    images = ModelInversion(iterations=1, learning_rate=1e-6)(some, 500, 0).images
    noise = some.normalize(images)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)


def test_seeds():
    some, context = expert(), GenerationContext(augmentation=jitter)
    fixed = ModelInversion(iterations=2, start=Given(torch.zeros(3, 1, 6, 6)))
    assert torch.equal(fixed(some, 3, 1, context).images, fixed(some, 3, 1, context).images)
    assert not torch.equal(fixed(some, 3, 1, context).images, fixed(some, 3, 2, context).images)


def test_mini_batches_are_augmented_differently():
    images = ModelInversion(iterations=2, batch_size=2, start=Given(torch.zeros(8, 1, 6, 6)))(
        expert(classes=(3, 4)), 8, 1, GenerationContext(augmentation=jitter)
    ).images
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8


@pytest.mark.parametrize("stop_at", [None, 0.6])
def test_killed_anywhere_and_resumed_is_uninterrupted(stop_at):
    """Three mini-batches of at most four iterations: within one, between two, at the very end."""
    some, start, sizes = expert(), Given(torch.rand(8, 1, 6, 6)), []
    with torch.no_grad():
        some.module[4].weight.mul_(5)  # so that some images do stop within four iterations
    generator = ModelInversion(iterations=4, batch_size=3, start=start, stop_at=stop_at, learning_rate=0.3)

    def run(journal):
        return generator(some, 8, 5, GenerationContext(Statistics(), jitter, journal))

    everything = Ends()
    some.module.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    whole = run(everything)
    assert (sum(sizes) < 32) == (stop_at is not None)
    for kill in range(1, len(everything.records) + 1):
        journal = KillingJournal(at=kill)
        with pytest.raises(KilledError):
            run(journal)
        calls, resumed = start.calls, journal.resumed()
        assert torch.equal(run(resumed).images, whole.images)
        assert start.calls == calls  # what it gave is in the state
        assert resumed.records == everything.records[kill:]


def test_progress_counts_the_steps_of_all_mini_batches():
    ends = Ends()
    ModelInversion(iterations=2, batch_size=3)(expert(), 7, 0, GenerationContext(journal=ends))
    assert ends.records == [(step, 6) for step in range(1, 7)]


def test_leaves_the_expert_alone_also_after_an_exception():
    some = expert()
    before = snapshot_of(some.module)
    ModelInversion(iterations=2)(some, 4, 0, GenerationContext(Statistics()))
    with pytest.raises(KilledError):
        ModelInversion(iterations=2)(some, 4, 0, GenerationContext(Statistics(), journal=KillingJournal(at=1)))
    assert snapshot_of(some.module) == before
    assert hooks_of(some.module) == 0


def test_a_start_of_another_shape_is_an_error():
    with pytest.raises(ShapeError, match=r"1x6x6.*got 3x6x6 from Given"):
        ModelInversion(start=Given(torch.zeros(2, 3, 6, 6)))(expert(), 2, 0)


def test_nan_in_the_weights_is_an_error():
    some = expert()
    with torch.no_grad():
        some.module[4].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        ModelInversion(iterations=1)(some, 2, 0)
