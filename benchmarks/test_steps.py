"""Some steps of inversion and of distillation against the bare step: the least that the same mathematics needs.

    uv run pytest benchmarks --benchmark-only

Bare inversion is the frozen expert's forward, the cross-entropy and the backward to the pixels. Bare distillation is
the student's forward and backward and the two teachers' forwards. Both are there as the modules come and in the form
that the engine gives them. What the engine does once before its first step is part of ours, so that a step of ours is a
little less than a round of it divided by the number of its steps; ``ratios.py`` measures single steps.
"""

import copy
import functools

import pytest
import ratios
import torch
from torch.nn.functional import cross_entropy, mse_loss

import exml
from exml.engine import Execution, Training, lowered
from exml.models import LeNet5, SlimResNet18

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
STEPS = 5
INVERSIONS = {
    "lenet5-512": ("inversion lenet5 512x1x32x32", 512),
    "slim-resnet18-32": ("inversion slim-resnet18 128x3x32x32", 32),
}
DISTILLATIONS = {"lenet5-32": (LeNet5, (32, 1, 32, 32)), "slim-resnet18-32": (SlimResNet18, (32, 3, 32, 32))}
MODES = {
    "exml": Execution(),
    "exml, captured": Execution("capture"),
    "exml, bf16": Execution("never", "bfloat16"),
}


def versions(device):
    """Compiling on a CPU takes a minute a network, and gains nothing there: only on a GPU, where steps are captured."""
    return [*(MODES if device == "cuda" else ["exml"]), "bare", "bare, lowered"]


CASES = [(device, version) for device in DEVICES for version in versions(device)]


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def measure(benchmark, work, device):
    def timed():
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark.extra_info.update(steps_per_round=STEPS, device=device)
    result = benchmark.pedantic(timed, rounds=7, warmup_rounds=1)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed()
        benchmark.extra_info["peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


@pytest.mark.parametrize(("device", "version"), CASES)
@pytest.mark.parametrize("case", INVERSIONS)
def test_inversion(benchmark, device, case, version):
    benchmark.group = f"inversion {case} {device}"
    name, batch = INVERSIONS[case]
    model, (_, *shape), _, _ = ratios.INVERSIONS[name]
    network = model().to(device).eval().requires_grad_(False)
    images, labels = torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % 10

    def bare(form):
        pixels = images.clone().requires_grad_()
        for _ in range(STEPS):
            (gradient,) = torch.autograd.grad(cross_entropy(form(pixels), labels, reduction="sum"), pixels)
        return gradient

    def ours():
        return ratios.our_inversion(name, network, images, STEPS, execution=MODES[version])

    with lowered(network, images[:2]) as fast:
        forms = {"bare": network, "bare, lowered": fast}
        work = functools.partial(bare, forms[version]) if version in forms else ours
        result = measure(benchmark, work, device)
    assert result.shape == images.shape
    assert bool(result.isfinite().all())
    if version in forms:
        torch.testing.assert_close(result, bare(network), rtol=1e-2, atol=1e-2 * float(result.abs().max()))
    else:
        assert not torch.equal(result, images)


@pytest.mark.parametrize(("device", "version"), CASES)
@pytest.mark.parametrize("case", DISTILLATIONS)
def test_distillation(benchmark, device, case, version):
    benchmark.group = f"distillation {case} {device}"
    model, shape = DISTILLATIONS[case]
    student, teacher = model().to(device), model().to(device).eval().requires_grad_(False)
    previous = copy.deepcopy(student).eval().requires_grad_(False)
    memory = exml.Samples.of(
        torch.rand(1_000, *shape[1:], device=device), torch.zeros(1_000, dtype=torch.long).to(device)
    )
    training = Training(iterations=STEPS, batch_size=shape[0], learning_rate=0.01, momentum=0.9)
    before = weights(student)

    def bare(new, old):
        images = memory.images[: shape[0]]
        for _ in range(STEPS):
            with torch.no_grad():
                target = new(images) + old(images)
            student.zero_grad()
            mse_loss(student(images), target).backward()

    def ours():
        modules = (student, teacher, previous)
        ratios.our_distillation(modules, memory, training, augmentation=None, execution=MODES[version])

    probe = memory.images[:2]
    with lowered(teacher, probe) as fast, lowered(previous, probe) as fast_previous:
        if version == "bare, lowered":
            student.to(memory_format=torch.channels_last)
        forms = {"bare": (teacher, previous), "bare, lowered": (fast, fast_previous)}
        measure(benchmark, functools.partial(bare, *forms[version]) if version in forms else ours, device)
    moved = not torch.equal(weights(student), before)
    assert moved == (version not in forms)
