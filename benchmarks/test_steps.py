"""One step of inversion and one of distillation against the bare step: the least that the same mathematics needs.

    uv run pytest benchmarks --benchmark-only

Bare inversion is the frozen expert's forward, the cross-entropy and the backward to the pixels. Bare distillation is
the student's forward and backward and the two teachers' forwards.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import exml
from exml.engine import PreviousStudent, Training, distill, frozen, invert
from exml.generators import NoJournal
from exml.losses import CenterLogits, MeanSquaredError, ProductOfExperts
from exml.models import LeNet5, SlimResNet18
from exml.priors import Augmentation, BatchNormStatistics, GaussianBlur, L2Norm, Sum

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
STEPS = 2
INVERSIONS = {
    "lenet5-512": (LeNet5, (512, 1, 32, 32), Sum((L2Norm(1e-3), GaussianBlur(1e-3))), Augmentation.mnist()),
    "slim-resnet18-16": (
        SlimResNet18,
        (16, 3, 32, 32),
        Sum((L2Norm(1e-4), GaussianBlur(1e-2), BatchNormStatistics(1.0))),
        Augmentation.cifar10(),
    ),
}
DISTILLATIONS = {"lenet5-32": (LeNet5, (32, 1, 32, 32)), "slim-resnet18-16": (SlimResNet18, (16, 3, 32, 32))}


def synchronised(work, device):
    def timed():
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return timed


def measure(benchmark, work, device):
    benchmark.extra_info.update(steps_per_round=STEPS, device=device, torch=torch.__version__)
    return benchmark.pedantic(synchronised(work, device), rounds=7, warmup_rounds=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", INVERSIONS)
@pytest.mark.parametrize("version", ["exml", "exml, no priors", "bare"])
def test_inversion(benchmark, device, case, version):
    benchmark.group = f"inversion {case} {device}"
    model, shape, prior, augmentation = INVERSIONS[case]
    torch.manual_seed(0)
    network = model().to(device).eval()
    images, labels = torch.randn(shape, device=device), torch.arange(shape[0], device=device) % 10

    def bare():
        pixels = images.clone().requires_grad_()
        with frozen(network):
            for _ in range(STEPS):
                (gradient,) = torch.autograd.grad(cross_entropy(network(pixels), labels, reduction="sum"), pixels)
        return gradient

    def ours():
        full = version == "exml"
        return invert(
            network,
            images,
            lambda logits, rows: cross_entropy(logits, labels[rows], reduction="none"),
            iterations=STEPS,
            learning_rate=0.1,
            seed=0,
            journal=NoJournal(),
            prior=prior if full else None,
            augmentation=augmentation if full else None,
        )

    result = measure(benchmark, bare if version == "bare" else ours, device)
    assert result.shape == shape
    assert bool(result.isfinite().all())
    assert version == "bare" or not torch.equal(result, images)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", DISTILLATIONS)
@pytest.mark.parametrize("version", ["exml", "bare"])
def test_distillation(benchmark, device, case, version):
    benchmark.group = f"distillation {case} {device}"
    model, shape = DISTILLATIONS[case]
    torch.manual_seed(0)
    student, teacher = model().to(device), model().to(device)
    previous = copy.deepcopy(student).eval().requires_grad_(False)
    everything = torch.ones(10, dtype=torch.bool, device=device)
    expert = exml.Expert(teacher, range(10), shape[1:])
    memory = exml.Samples.of(
        torch.rand(1_000, *shape[1:], device=device), torch.zeros(1_000, dtype=torch.long).to(device)
    )
    training = Training(iterations=STEPS, batch_size=shape[0], learning_rate=0.01, momentum=0.9)
    before = nn.utils.parameters_to_vector(student.parameters()).detach().clone()

    def bare():
        images = memory.images[: shape[0]]
        with frozen(teacher):
            for _ in range(STEPS):
                with torch.no_grad():
                    target = teacher(images) + previous(images)
                student.zero_grad()
                mse_loss(student(images), target).backward()

    def ours():
        distill(
            student,
            PreviousStudent(previous, everything, everything),
            expert,
            memory,
            normalizer=CenterLogits(),
            combiner=ProductOfExperts(),
            loss=MeanSquaredError(),
            training=training,
            augmentation=None,
            optimizer=training.make_optimizer(student),
            seed=0,
            start=0,
            classes=10,
            after_step=lambda done, loss: None,
        )

    measure(benchmark, bare if version == "bare" else ours, device)
    moved = not torch.equal(nn.utils.parameters_to_vector(student.parameters()), before)
    assert moved == (version == "exml")
