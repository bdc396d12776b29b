"""Every form of a step gives the same result, and the engine's steps do what they need and no more.

Counts of operations, compilations and read-backs are gates on speed that noise cannot touch.
"""

import collections
import contextlib
import copy
import functools
import inspect
import shutil
import warnings

import jaxtyping
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import exml
from exml.augmentation import Augmentation
from exml.engine import Execution, ExecutionWarning, Training, _steps, distill
from exml.engine._steps import fallback, fastest
from exml.models import ConvNet, LeNet5, SlimResNet18
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum
from exml.protocols import NoJournal
from tests.engine.helpers import distilled, inverted, teachers_of, weights

DYNAMO = ("ignore:The .grad attribute", "ignore::DeprecationWarning", "ignore::FutureWarning")
"""What PyTorch's own compiler warns of itself."""
PRIOR = Sum((L2Norm(1e-3), GaussianBlur(1e-3), BatchNormStatistics(1.0)))
PIXEL_PRIOR = Sum((L2Norm(1e-3), GaussianBlur(1e-3)))


class Branches(nn.Module):
    """Cannot be compiled as a whole."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, images):
        logits = self.net(images)
        return logits if logits.detach().sum().item() > 0 else logits.clone()


def inversion(network, shape, *, steps=8, device="cpu", **changes):
    context = {"prior": PRIOR, **changes}
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    labels = torch.arange(len(images), device=device) % 3

    def objective(logits, rows):
        return cross_entropy(logits, labels[rows], reduction="none")

    return inverted(network.to(device), images, objective, seed=0, iterations=steps, learning_rate=0.05, **context)


def distillation(make, shape, *, optimizer="sgd", steps=8, device="cpu", **live):
    """The student of some steps in the second experience."""
    torch.manual_seed(0)
    student, teacher, earlier = (make().to(device) for _ in range(3))
    memory = exml.Samples.of(torch.rand(shape).to(device), (torch.arange(len(torch.rand(shape))) % 10).to(device))
    training = Training(
        steps, 8, 0.01, optimizer, momentum=0.9 * (optimizer == "sgd"), schedule="one-cycle", clip_norm=5.0
    )
    teachers = teachers_of(earlier, teacher, shape[1:])
    return distilled(student, teachers, memory, training, augmentation=Augmentation.cifar10(), **live)


@pytest.fixture
def counter(monkeypatch):
    """torch.compile without the C++ compiler, counting what is compiled."""
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)  # the checks at run time are not for compiling
    backend = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield backend
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


@pytest.mark.filterwarnings(*DYNAMO)
@pytest.mark.parametrize("prior", [PRIOR, PIXEL_PRIOR], ids=["with statistics", "pixels only"])
def test_a_compiled_inversion_is_the_eager_one(counter, prior):
    network, shape = ConvNet(3, 3, 8), (5, 3, 8, 8)
    run = functools.partial(inversion, network, shape, prior=prior, augmentation=Augmentation.cifar10())
    wanted = run()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExecutionWarning)
        got = run(execution=Execution(compile="always"))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1  # no graph break, and no second compilation in the steps after the first


@pytest.mark.filterwarnings(*DYNAMO)
def test_a_compiled_distillation_is_the_eager_one(counter):
    make, shape = (lambda: ConvNet(3, 10, 8)), (20, 3, 8, 8)
    wanted = weights(distillation(make, shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExecutionWarning)
        got = weights(distillation(make, shape, execution=Execution(compile="always")))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
    assert counter.frame_count == 3  # the student and two teachers, once each


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings(*DYNAMO)
def test_the_default_compiler_gives_the_same(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    network, shape = LeNet5(1, 3, 16), (4, 1, 16, 16)
    wanted = inversion(network, shape, prior=PIXEL_PRIOR)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExecutionWarning)
        got = inversion(network, shape, prior=PIXEL_PRIOR, execution=Execution(compile="always"))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_compiled_runs_eagerly_and_says_so_once():
    run = functools.partial(inversion, Branches(), (4, 1, 8, 8), prior=None)
    with pytest.warns(ExecutionWarning, match="operation by operation") as found:
        got = run(execution=Execution(compile="always"))
    assert len(found) == 1
    assert torch.equal(got, run())


def test_a_fault_of_the_step_itself_is_not_hidden():
    def faulty():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fallback(lambda: faulty, faulty, "compiled")()


@pytest.mark.parametrize(
    ("costs", "steps", "chosen"),
    [
        ({"eager": 2.0, "captured": 1.0, "compiled": 3.0}, 10_000, "captured"),
        ({"eager": 2.0, "captured": 3.0, "compiled": 1.0}, 10_000, "compiled"),
        ({"eager": 1.0, "captured": 3.0, "compiled": 2.0}, 10_000, "eager"),
        ({"eager": 1.0, "compiled": 0.1}, 60, "eager"),  # too little work ahead to compile at all
    ],
)
def test_auto_takes_the_fastest_and_makes_every_step_once(monkeypatch, costs, steps, chosen):
    now, made = [0.0], []
    monkeypatch.setattr(_steps.time, "perf_counter", lambda: now[0])

    def step(name):
        now[0] += costs[name]
        made.append(name)

    forms = {name: functools.partial(step, name) for name in costs}
    run = fastest(forms, steps, torch.device("cpu"))
    for _ in range(100):
        next(run)
    assert len(made) == 100
    assert set(made[len(costs) * 8 :]) == {chosen}
    assert steps > 100 or "compiled" not in made


def test_bfloat16_keeps_statistics_and_images_in_float32():
    network, shape = SlimResNet18(width=4), (8, 3, 16, 16)
    seen = []

    class Spy:
        reads_activations = True

        def __call__(self, images, activations, /):
            var, mean = activations[3].var_mean()
            seen.append((images.dtype, activations[3].recorded.dtype, var.dtype, mean.dtype))
            return PRIOR(images, activations)

    got = inversion(network, shape, prior=Spy(), execution=Execution(precision="bfloat16"), steps=3)
    wanted = inversion(network, shape, prior=PRIOR, steps=3)
    assert seen == [(torch.float32, torch.bfloat16, torch.float32, torch.float32)] * 3
    assert got.dtype == torch.float32
    # Adam's first steps have the size of the learning rate for any gradient: most signs must agree.
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert float(((got - start).sign() == (wanted - start).sign()).float().mean()) > 0.9


def test_a_student_of_bfloat16_learns_in_float32():
    make, shape = (lambda: ConvNet(3, 10, 8)), (20, 3, 8, 8)
    losses = []
    student = distillation(
        make, shape, execution=Execution(precision="bfloat16"), after_step=lambda _, loss: losses.append(loss)
    )
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert {loss.dtype for loss in losses} == {torch.float32}
    wanted = weights(distillation(make, shape))
    assert float((weights(student) - wanted).norm() / wanted.norm()) < 0.02


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_channels_last_changes_no_weight(optimizer, monkeypatch):
    """Fused optimizers read memory in its order: weights, gradients and moments must have the same one."""
    make, shape = (lambda: ConvNet(3, 10, 8)), (12, 3, 8, 8)
    got = distillation(make, shape, optimizer=optimizer, steps=4)
    assert all(parameter.is_contiguous() for parameter in got.parameters())
    monkeypatch.setitem(inspect.unwrap(distill).__globals__, "channels_last", lambda *_: contextlib.nullcontext())
    torch.testing.assert_close(
        weights(got), weights(distillation(make, shape, optimizer=optimizer, steps=4)), rtol=1e-3, atol=1e-4
    )


VIEWS = {"view", "permute", "detach", "slice", "expand", "select", "unbind", "unsqueeze", "squeeze", "t", "split"}
VIEWS |= {"view_as", "split_with_sizes", "_reshape_alias", "alias", "as_strided"}


class Operations(TorchDispatchMode):
    """The names of the operations that touch memory; on a GPU each is one kernel or more."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") not in VIEWS:
            self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


class AtStep:
    """Counts the operations of one step: between the ends of the step before it and of its own."""

    def __init__(self, mode, step):
        self.mode, self.step = mode, step

    def restore(self):
        return None

    def record(self, done, _total, _state, /):
        self(done)

    def __call__(self, done, _loss=None):
        if done == self.step - 1:
            self.mode.__enter__()
        elif done == self.step:
            self.mode.__exit__(None, None, None)


READ_BACK = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.item.default", "aten.equal.default"}


def operations_of_inversion(model, shape, prior, augmentation):
    mode = Operations()
    inversion(model, shape, prior=prior, augmentation=augmentation, steps=4, journal=AtStep(mode, 3))
    return mode.names


def operations_of_network(model, shape):
    """Of the lowered network's forward, cross-entropy and backward to the pixels: the bare step."""
    images = torch.randn(shape, requires_grad=True)
    with Operations() as mode, exml.engine.lowered(model, images[:2]) as fast:
        mode.names.clear()
        torch.autograd.grad(cross_entropy(fast(images), torch.zeros(len(images), dtype=torch.long)), images)
    return mode.names


@pytest.mark.parametrize(
    ("model", "shape", "prior", "augmentation", "most"),
    [
        (LeNet5(), (4, 1, 32, 32), PIXEL_PRIOR, Augmentation.mnist(), 75),
        (SlimResNet18(width=4), (4, 3, 32, 32), PRIOR, Augmentation.cifar10(), 520),
    ],
    ids=["lenet5", "slim-resnet18"],
)
def test_an_inversion_step_has_few_operations_more_than_the_bare_one(model, shape, prior, augmentation, most):
    model.eval().requires_grad_(False)
    names, bare = operations_of_inversion(model, shape, prior, augmentation), operations_of_network(model, shape)
    assert not READ_BACK & set(names)
    convolutions = {name: count for name, count in bare.items() if "convolution" in name}
    assert {name: names[name] for name in convolutions} == convolutions
    assert names["aten.native_batch_norm.default"] == 0
    assert names.total() - bare.total() <= most


def test_the_statistics_of_a_layer_cost_a_dozen_operations():
    """Every layer is read once forward and once backward, independent of what the prior does with them."""
    shape, model = (4, 3, 32, 32), SlimResNet18(width=4).eval().requires_grad_(False)
    names = operations_of_inversion(model, shape, PRIOR, None)
    without = operations_of_inversion(model, shape, PIXEL_PRIOR, None)
    assert names["aten.batch_norm_update_stats.default"] == 20
    assert names["aten.var_mean.correction"] == 0
    assert names.total() - without.total() <= 20 * 20


def test_a_distillation_step_has_few_operations_more_than_the_bare_one():
    mode = Operations()
    model, shape = (lambda: SlimResNet18(width=4)), (20, 3, 32, 32)
    distillation(model, shape, steps=4, after_step=AtStep(mode, 3))
    assert not READ_BACK & set(mode.names)
    student, images = model().train(), torch.randn(8, 3, 32, 32)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    with Operations() as bare, exml.engine.lowered(teacher, images[:2]) as fast:
        bare.names.clear()
        with torch.no_grad():
            target = fast(images) + fast(images)
        (student(images) - target).square().mean().backward()
    assert mode.names.total() - bare.names.total() <= 220


def test_no_hook_is_left_and_none_is_there_during_a_step():
    network, seen = SlimResNet18(width=4), []

    class Journal(NoJournal):
        def record(self, done, total, state, /):
            seen.append(sum(len(p._forward_hooks) + len(p._forward_pre_hooks) for p in network.modules()))

    inversion(network, (4, 3, 16, 16), journal=Journal(), steps=2)
    assert seen == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("compile", ["capture", "always", "auto"])
def test_a_captured_inversion_is_the_eager_one(compile):
    network, shape = SlimResNet18(width=4), (8, 3, 16, 16)
    run = functools.partial(inversion, network, shape, augmentation=Augmentation.cifar10(), device="cuda", steps=40)
    torch.testing.assert_close(run(execution=Execution(compile=compile)), run(), rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_captured_distillation_is_the_eager_one(optimizer):
    make, shape = (lambda: SlimResNet18(width=4)), (20, 3, 8, 8)
    run = functools.partial(distillation, make, shape, optimizer=optimizer, device="cuda", steps=20)
    got, wanted = weights(run(execution=Execution(compile="always"))), weights(run())
    assert float((got - wanted).norm() / wanted.norm()) < 0.02
