"""Distillation on several ranks: the steps of one rank, taken together."""

import copy
import warnings

import pytest
import torch
from torch import nn

import exml
from exml.augmentation import Augmentation
from exml.distributed import ALONE
from exml.engine import Execution, ExecutionWarning, Training
from exml.engine._ranks import synchronized
from exml.models import ConvNet
from exml.testing import run_on_ranks
from tests.engine.helpers import distilled, teachers_of
from tests.norms import NORMS

SHAPE = (1, 8, 8)
BATCH = 7
"""Divides by neither 2 nor 3."""


def student_of(kind):
    torch.manual_seed(3)
    if kind == "batch norm":
        return ConvNet(1, 4, 8)
    # Gradients whose channels do not lie last, one parameter that is not used, and one batch norm that is not trained.
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 4))
    net[1].eval()
    net.unused = nn.Parameter(torch.ones(3))
    return net


def learned(ranks, *, kind="batch norm", dtype=torch.float64, execution=exml.engine.EAGER, **settings):
    torch.manual_seed(0)
    teachers = ConvNet(1, 4, 8).eval().to(dtype), ConvNet(1, 4, 8).eval().to(dtype)
    memory = exml.Samples.of(torch.rand(20, *SHAPE, dtype=dtype), torch.arange(20) % 4)
    student = student_of(kind).to(dtype)
    if kind != "batch norm":  # this layer stays in evaluation mode
        student[1].train = lambda mode=True: student[1]
        student[1].training = False
    settings = {"iterations": 9, "batch_size": BATCH, "learning_rate": 0.005, "momentum": 0.9, **settings}
    training = Training(**settings)
    losses = []
    both = teachers_of(teachers[1], teachers[0], SHAPE, 4)
    live = {"after_step": lambda done, loss: losses.append(loss.item()), "execution": execution, "ranks": ranks}
    distilled(student, both, memory, training, augmentation=Augmentation(shift=1, rotation=5.0), **live)
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}, losses


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"views": 3},
        {"views": 2, "sampling": "class-balanced"},
        {"clip_norm": 0.5},
        {"optimizer": "adam", "learning_rate": 0.003},
        {"kind": "frozen batch norm"},
        {"ridge": 0.01, "batch_norm": "running", "views": 2},
        {"ridge": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [2, 3])
def test_the_student_is_that_of_one_rank(size, settings):
    """Weights, running statistics and losses; in float64, so that nothing but rounding can differ."""
    alone, losses = learned(ALONE, **settings)
    for state, told in run_on_ranks(lambda ranks: learned(ranks, **settings), size):
        assert told == pytest.approx(losses, rel=1e-9)
        for name, tensor in alone.items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-8, atol=1e-9)


def test_in_float32_it_is_so_to_rounding():
    alone, losses = learned(ALONE, dtype=torch.float32)
    (state, told), (other, _) = run_on_ranks(lambda ranks: learned(ranks, dtype=torch.float32), 2)
    assert told == pytest.approx(losses, rel=1e-4)
    for name, tensor in alone.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)
        assert torch.equal(state[name], other[name])  # one student, and not two that drift apart


def test_compiled_steps_are_refused():
    with pytest.warns(ExecutionWarning, match="compiled.*ranks exchange"):
        run_on_ranks(lambda ranks: learned(ranks, execution=Execution("always")), 2)


LAYERS = {
    "2d": (lambda: nn.BatchNorm2d(5), (7, 5, 3, 4)),
    "2d, channels last": (lambda: nn.BatchNorm2d(8).to(memory_format=torch.channels_last), (6, 8, 4, 4)),
    "1d": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "no weights": (lambda: nn.BatchNorm2d(5, affine=False), (7, 5, 3, 4)),
    "no running statistics": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (7, 5, 3, 4)),
    "activated": (lambda: NORMS["activated"](5), (7, 5, 3, 4)),
    "functional": (lambda: NORMS["functional"](5), (7, 5, 3, 4)),
    "sync": (lambda: nn.SyncBatchNorm(5), (7, 5, 3, 4)),
    "without bias": (lambda: nn.BatchNorm2d(5, bias=False), (7, 5, 3, 4)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None, eps=1e-2), (7, 5, 3, 4)),
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_batch_norm_over_ranks_is_that_of_torch_over_the_batch(name, size):
    """Outputs, all gradients and running statistics, against nn.BatchNorm itself."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    values, weights = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    if "last" in name:
        values = values.contiguous(memory_format=torch.channels_last)

    def work(ranks):
        own, shard = copy.deepcopy(layer), ranks.shard(len(values))
        part = values[shard.rows].detach().requires_grad_()
        with synchronized(own, shard):
            for _ in range(2):
                output = own(part)
        (output * weights[shard.rows]).sin().sum().backward()
        gradients = [parameter.grad for parameter in own.parameters()]
        for gradient in gradients:
            ranks.add(gradient)
        assert "forward" not in vars(own)
        return [shard.collect(output), shard.collect(part.grad), *gradients, *own.buffers()]

    oracle, whole = copy.deepcopy(layer), values.clone().requires_grad_()
    for _ in range(2):
        output = oracle(whole)
    (output * weights).sin().sum().backward()
    wanted = [output, whole.grad, *(parameter.grad for parameter in oracle.parameters()), *oracle.buffers()]
    for got in run_on_ranks(work, size):
        assert len(got) == len(wanted)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["own", "instance", "frozen"])
def test_layers_that_ranks_do_not_synchronize_are_named(name):
    """A frozen layer needs no synchronization."""

    def work(ranks):
        student, shard = nn.Sequential(NORMS[name](2)), ranks.shard(4)
        batch_norm = synchronized(student, shard)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                with batch_norm:
                    student(torch.randn(shard.own, 2, 3, 3))
        return [str(warning.message) for warning in caught]

    told, other = run_on_ranks(work, 2)
    assert ["'0'" in message for message in told] == [True] * (name != "frozen")
    assert other == []
