"""Inversion on several ranks: the loss and the gradients of the whole mini-batch, and the same images."""

import copy

import pytest
import torch
from torch import nn

from exml.augmentation import Augmentation, Chain
from exml.distributed import ALONE
from exml.engine import Execution, ExecutionWarning, Goal, inverter
from exml.engine.inversion import _ActiveImages
from exml.generators import ModelInversion
from exml.models import SlimResNet18
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum, TotalVariation, Weighted
from exml.protocols import GenerationContext
from exml.testing import run_on_ranks
from tests.engine.helpers import inverted
from tests.engine.test_inversion import jitter

IMAGES = 7
"""Divides by neither 2 nor 3."""
PRIORS = {
    "none": None,
    "l2": L2Norm(1e-2),
    "blur": GaussianBlur(0.1),
    "blur of the reference": GaussianBlur(0.1, kernel_size=7, padding="zeros", squared=False),
    "total variation": TotalVariation(0.01),
    "weighted": Weighted(BatchNormStatistics(1.0), 3.0),
    "batch norm": BatchNormStatistics(10.0),
    "batch norm, last layer": BatchNormStatistics(1.0, layers="last", statistic="variance", reduction="mean"),
    "batch norm, named": BatchNormStatistics(1.0, layers=("blocks.2.shortcut.1",)),
}
PRIORS["all together"] = Sum(tuple(prior for prior in PRIORS.values() if prior is not None))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = SlimResNet18(channels=3, classes=4, width=4)
    net(torch.randn(32, 3, 16, 16))  # running statistics of its own
    with torch.no_grad():
        net.classifier.weight *= 10  # and opinions
    return net.eval()


def start(count=IMAGES, dtype=torch.float32):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def objective(logits, rows):
    return nn.functional.cross_entropy(logits / 2, rows % 4, reduction="none")


def loss_and_gradient(network, prior, augmentation, ranks):
    """The sum of all ranks' losses, and the gradient of every image."""
    images = start()
    network = copy.deepcopy(network)
    context = GenerationContext(prior, augmentation, ranks=ranks)
    with inverter(network, images, ModelInversion(), context) as inversion, torch.enable_grad():
        state = _ActiveImages.begin(images, ranks.shard(len(images)), 0.1, None)
        loss, _ = inversion._loss(inversion.network, state, Goal(objective), torch.Generator().manual_seed(5))
        (gradient,) = torch.autograd.grad(loss, state.active)
    whole = loss.detach().clone()
    ranks.add(whole)
    return whole, state.shard.collect(gradient)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", PRIORS)
def test_loss_and_gradients_are_those_of_the_whole(network, name, size):
    augmentation = Chain((Augmentation(shift=2, flip=0.5), Augmentation(rotation=10.0)))
    (loss, gradient), *_ = run_on_ranks(lambda ranks: loss_and_gradient(network, PRIORS[name], augmentation, ranks), 1)
    for shared, pixels in run_on_ranks(
        lambda ranks: loss_and_gradient(network, PRIORS[name], augmentation, ranks), size
    ):
        assert shared == pytest.approx(loss.item(), rel=1e-5)
        assert (pixels - gradient).norm() <= 1e-5 * gradient.norm()


def shared(network, ranks, *, count=IMAGES, **changes):
    """In float64, in which rounding is too small to put an image on the other side of a ReLU."""
    changes = {"iterations": 12, "learning_rate": 0.05, **changes}
    return inverted(copy.deepcopy(network).double(), start(count, torch.float64), objective, ranks=ranks, **changes)


@pytest.mark.parametrize("count", [1, 2, IMAGES])
@pytest.mark.parametrize("prior", ["all together", "l2"])
def test_the_images_are_the_same_on_any_number_of_ranks(network, prior, count):
    """Also where some ranks have no image; a custom augmentation draws for every image."""
    settings = {"count": count, "augmentation": jitter, "prior": PRIORS[prior]}
    (alone,) = run_on_ranks(lambda ranks: shared(network, ranks, **settings), 1)
    assert (alone - start(count)).abs().max() > 0.1
    for size in (2, 3):
        for images in run_on_ranks(lambda ranks: shared(network, ranks, **settings), size):
            torch.testing.assert_close(images, alone, rtol=0, atol=1e-6)


def certain(logits, rows):
    return logits.softmax(1).gather(1, (rows % 4)[:, None])[:, 0] > 0.5


def test_finished_images_leave_on_any_number_of_ranks(network):
    """A rank whose images are all finished still takes part in the exchange of statistics."""
    settings = {"prior": BatchNormStatistics(1e-4), "finished": certain, "iterations": 60}
    (alone,) = run_on_ranks(lambda ranks: shared(network, ranks, **settings), 1)
    stopped = shared(network, ALONE, **{**settings, "finished": None})
    assert not torch.allclose(alone, stopped, atol=1e-2)
    for size in (2, 3):
        for images in run_on_ranks(lambda ranks: shared(network, ranks, **settings), size):
            torch.testing.assert_close(images, alone, rtol=0, atol=1e-6)


class Keeper:
    """Keeps every state, and hands back one."""

    def __init__(self, state=None):
        self.state, self.states = state, []

    def restore(self):
        return self.state

    def record(self, done, total, state, /):
        self.states.append(state())


@pytest.mark.parametrize("finished", [None, certain], ids=["all to the end", "some finished"])
def test_a_state_of_two_ranks_goes_on_with_three_or_one(network, finished):
    settings = {"prior": BatchNormStatistics(1e-4), "finished": finished, "iterations": 50}

    def work(ranks, state=None):
        keeper = Keeper(state)
        return shared(network, ranks, journal=keeper, **settings), keeper.states

    (whole, states), *_ = run_on_ranks(work, 2)
    half = states[34]
    assert int(half["step"]) == 35
    assert (len(half["rows"]) < IMAGES) == (finished is not None)
    for size in (1, 3):
        for images, _ in run_on_ranks(lambda ranks: work(ranks, half), size):
            torch.testing.assert_close(images, whole, rtol=0, atol=1e-6)


def test_captured_steps_are_refused_where_ranks_exchange_statistics(network):
    prior = BatchNormStatistics(1.0)
    with pytest.warns(ExecutionWarning, match="compiled.*ranks exchange"):
        run_on_ranks(lambda ranks: shared(network, ranks, prior=prior, execution=Execution("always")), 2)
