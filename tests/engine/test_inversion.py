"""The inversion loop against Adam written out in NumPy, and killed wherever it can be."""

import numpy as np
import pytest
import torch
from torch import nn

from exml.augmentation import Augmentation
from exml.core.errors import ExpertError, NonFiniteError
from exml.models import SlimResNet18
from exml.priors import BatchNormStatistics, L2Norm, Sum
from exml.protocols import NoJournal
from tests.engine.helpers import inverted, plainly_inverted
from tests.generators.helpers import Ends, KilledError, KillingJournal, hooks_of, snapshot_of


class Squares:
    """λ times the mean squared norm of the images; keeps what it was given."""

    def __init__(self, weight, reads_activations=False):
        self.weight, self.reads_activations = weight, reads_activations
        self.saw = []

    def __call__(self, images, activations, /):
        self.saw.append((images.detach().clone(), [activation.input.detach() for activation in activations]))
        return self.weight * images.square().sum((1, 2, 3)).mean()


class Statistics:
    """Couples the images of a mini-batch through a batch-norm layer, as no pixel prior does."""

    reads_activations = True

    def __call__(self, images, activations, /):
        return sum((a.input.mean((0, 2, 3)) - a.running_mean).square().sum() for a in activations)


def jitter(images, generator, /):
    """An augmentation that uses its generator and does something to every image."""
    return images + 0.1 * torch.randn(images.shape, generator=generator, device=images.device)


def towards(labels, temperature=1.0):
    return lambda logits, rows: nn.functional.cross_entropy(logits / temperature, labels[rows], reduction="none")


@pytest.fixture
def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


IMAGES = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_three_steps_are_those_of_the_formula(linear):
    """Cross-entropy of a linear softmax and a squared norm: the gradient is W^T (p - onehot) / τ + 2 λ z."""
    labels, temperature, weight = torch.tensor([0, 2, 1]), 2.0, 0.05
    start = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    got = inverted(linear, start, towards(labels, temperature), iterations=3, prior=Squares(weight))
    matrix, bias = linear[1].weight.detach().numpy(), linear[1].bias.detach().numpy()
    z = start.numpy().reshape(3, 8)
    mean, square = np.zeros_like(z), np.zeros_like(z)
    for step in range(1, 4):
        logits = (z @ matrix.T + bias) / temperature
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        gradient = (p - np.eye(3)[labels.numpy()]) @ matrix / temperature + 2 * weight * z
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        z = z - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(got.numpy().reshape(3, 8), z, rtol=1e-9, atol=1e-12)


def test_steps_are_those_of_the_plain_twin():
    """With batch-norm statistics, a residual network, augmentation and Adam as PyTorch writes it."""
    torch.manual_seed(0)
    network, images = SlimResNet18(width=4).double(), torch.randn(5, 3, 16, 16).double()
    parts = {
        "prior": Sum((L2Norm(1e-2), BatchNormStatistics(1.0))),
        "augmentation": Augmentation(shift=2, rotation=9.0),
    }
    got = inverted(network, images, towards(LABELS), **parts)
    torch.testing.assert_close(got, plainly_inverted(network, images, towards(LABELS), **parts), rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_its_mini_batch(linear):
    """Not even where Adam's epsilon is as large as the gradients, which is where a mean over the batch would show."""
    with torch.no_grad():
        linear[1].weight *= 1e-7
    labels, start = torch.tensor([0, 2, 1, 1]), torch.randn(4, 2, 2, 2, dtype=torch.float64)
    together = inverted(linear, start, towards(labels), prior=Squares(1e-9))
    alone = [inverted(linear, start[[k]], towards(labels[[k]]), prior=Squares(1e-9)) for k in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)


def test_pixel_priors_see_the_images_and_activations_come_of_the_augmented_ones(net):
    prior = Squares(0.1, reads_activations=True)
    inverted(net, IMAGES, towards(LABELS), iterations=1, prior=prior, augmentation=lambda x, _: 3 * x)
    ((images, (activation,)),) = prior.saw
    assert torch.equal(images, IMAGES)
    torch.testing.assert_close(activation, net[0](3 * IMAGES))


def test_activations_are_recorded_only_if_they_are_read(net, linear):
    prior = Squares(0.1)
    inverted(net, IMAGES, towards(LABELS), prior=prior)
    assert len(prior.saw) == 6
    assert all(activations == [] for _, activations in prior.saw)
    with pytest.raises(ExpertError, match="batch-norm layers"):
        inverted(linear, torch.zeros(1, 2, 2, 2).double(), towards(LABELS), prior=BatchNormStatistics(1.0))


def test_start_and_network_are_left_alone(net):
    net.train()
    start, before = IMAGES.clone(), snapshot_of(net)
    got = inverted(net, start, towards(LABELS), prior=Statistics(), augmentation=jitter)
    assert torch.equal(start, IMAGES)
    assert not got.requires_grad
    assert snapshot_of(net) == before
    assert hooks_of(net) == 0


def test_also_after_an_exception(net):
    net.train()
    before = snapshot_of(net)

    def broken(logits, rows):
        raise KilledError

    with pytest.raises(KilledError):
        inverted(net, IMAGES, broken, prior=Statistics())
    assert snapshot_of(net) == before
    assert hooks_of(net) == 0


def test_works_where_gradients_are_off(net):
    wanted = inverted(net, IMAGES, towards(LABELS))
    with torch.no_grad():
        got = inverted(net, IMAGES, towards(LABELS))
    assert torch.equal(got, wanted)


def test_the_images_get_what_they_were_optimised_for(net):
    net.eval()
    before = net(IMAGES).softmax(1).gather(1, LABELS[:, None])
    after = net(inverted(net, IMAGES, towards(LABELS), iterations=50)).softmax(1)
    assert (after.gather(1, LABELS[:, None]) > before).all()
    assert torch.equal(after.argmax(1), LABELS)


def test_augmentation_is_a_function_of_the_seed(net):
    def run(seed):
        return inverted(net, IMAGES, towards(LABELS), seed=seed, augmentation=jitter)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_every_iteration_augments_anew(net):
    draws = []

    def watched(images, generator, /):
        draws.append(torch.randn(2, generator=generator))
        return images

    inverted(net, IMAGES, towards(LABELS), augmentation=watched)
    assert len({tuple(draw.tolist()) for draw in draws}) == 6


def test_clamp_holds_pixels_after_every_step(net):
    saw = Squares(0.0)
    got = inverted(net, IMAGES, towards(LABELS), clamp=0.5, prior=saw)
    assert got.abs().max() == 0.5
    assert all(images.abs().max() <= 0.5 for images, _ in saw.saw[1:])


def leaving(at):
    """Images leave in the iterations that ``at`` lists, by their position; counts the iterations itself."""
    steps = iter(range(100))

    def finished(logits, rows):
        step = next(steps)
        return torch.tensor([at.get(row, 100) <= step for row in rows.tolist()])

    return finished


def test_finished_images_stay_and_the_others_go_on_as_if_alone(linear):
    labels, start = torch.tensor([0, 2, 1, 1]), torch.randn(4, 2, 2, 2, dtype=torch.float64)
    sizes = []
    linear.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))

    def run(iterations, **changes):
        sizes.clear()
        return inverted(linear, start, towards(labels), iterations=iterations, **changes)

    got = run(6, finished=leaving({0: 2, 3: 0, 1: 4}))
    assert sizes == [4, 3, 3, 2, 2, 1]
    assert torch.equal(got[3], start[3])
    for row, steps in ((0, 2), (1, 4), (2, 6)):
        torch.testing.assert_close(got[row], run(steps)[row], rtol=1e-12, atol=1e-12)


def test_ends_when_all_are_finished(linear):
    start, ends = torch.randn(2, 2, 2, 2, dtype=torch.float64), Ends()
    got = inverted(linear, start, towards(LABELS), journal=ends, finished=leaving({0: 1, 1: 1}))
    assert ends.records == [(1, 6), (2, 6)]
    assert got.isfinite().all()


@pytest.mark.parametrize("finished", [None, {0: 2, 3: 0, 1: 4}], ids=["all run", "some stop"])
@pytest.mark.parametrize("kill", range(1, 7))
def test_killed_and_resumed_is_uninterrupted(net, kill, finished):
    def run(journal, steps_before=0):
        leave = None if finished is None else leaving({row: step - steps_before for row, step in finished.items()})
        parts = {"prior": Statistics(), "augmentation": jitter, "finished": leave}
        return inverted(net, IMAGES, towards(LABELS), journal=journal, clamp=2.0, **parts)

    whole = run(NoJournal())
    journal = KillingJournal(at=kill)
    with pytest.raises(KilledError):
        run(journal)
    assert torch.equal(run(journal.resumed(), kill), whole)


def test_the_state_is_a_snapshot(net):
    journal = KillingJournal(at=2, kill=False)
    inverted(net, IMAGES, towards(LABELS), journal=journal)
    again = KillingJournal(at=2)
    with pytest.raises(KilledError):
        inverted(net, IMAGES, towards(LABELS), journal=again)
    assert journal.state.keys() == again.state.keys()
    assert all(torch.equal(journal.state[name], again.state[name]) for name in journal.state)


def test_reports_every_step(net):
    ends = Ends()
    inverted(net, IMAGES, towards(LABELS), journal=ends)
    assert ends.records == [(step, 6) for step in range(1, 7)]


def test_nan_is_an_error(net):
    with torch.no_grad():
        net[4].weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"NaN or infinity in 5 of 5"):
        inverted(net, IMAGES, towards(LABELS))
    assert net[4].weight.requires_grad
