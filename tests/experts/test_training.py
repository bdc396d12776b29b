"""Training experts: plain SGD as torch does it, the right head, the same for the same seed."""

from __future__ import annotations

import copy
import math

import attrs
import pytest
import torch
from torch import nn

from exml.errors import ExpertError, NonFiniteError, SettingError
from exml.experts import Expert, ExpertTraining, train_expert
from exml.models import ConvNet
from exml.samples import Samples


def blobs(count: int = 40, classes: tuple[int, ...] = (3, 7), seed: int = 0) -> Samples:
    """Images whose mean tells their class."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(count) % len(classes)
    noise = torch.rand(count, 1, 4, 4, generator=generator) * 0.4
    return Samples.of(noise + 0.6 * index.view(-1, 1, 1, 1) / max(1, len(classes) - 1), torch.tensor(classes)[index])


def linear(outputs: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_weights_are_those_of_sgd_written_out(schedule: str) -> None:
    """One mini-batch an epoch, so that the order of the images does not matter."""
    samples = blobs(8)
    training = ExpertTraining(
        epochs=5, batch_size=8, learning_rate=0.3, momentum=0.8, weight_decay=0.01, schedule=schedule
    )
    module = linear(2).double()
    samples = attrs.evolve(samples, images=samples.images.double())
    weight, bias = module[1].weight.detach().clone(), module[1].bias.detach().clone()
    train_expert(module, samples, training=training, mean=(0.5,), std=(0.25,))

    inputs = ((samples.images - 0.5) / 0.25).flatten(1)
    wanted = nn.functional.one_hot((samples.labels == 7).long(), 2).double()
    velocities = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for epoch in range(5):
        rate = 0.3 * (1 if schedule == "constant" else (1 + math.cos(math.pi * epoch / 5)) / 2)
        slope = (torch.softmax(inputs @ weight.T + bias, 1) - wanted) / 8
        gradients = [slope.T @ inputs + 0.01 * weight, slope.sum(0) + 0.01 * bias]
        velocities = [0.8 * velocity + gradient for velocity, gradient in zip(velocities, gradients, strict=True)]
        weight, bias = weight - rate * velocities[0], bias - rate * velocities[1]
    torch.testing.assert_close(module[1].weight.detach(), weight)
    torch.testing.assert_close(module[1].bias.detach(), bias)


@pytest.mark.parametrize(("width", "outputs"), [(2, (3, 7)), (10, tuple(range(10)))])
def test_an_expert_learns_with_either_head(width: int, outputs: tuple[int, ...]) -> None:
    samples = blobs()
    training = ExpertTraining(epochs=20, learning_rate=0.02)
    expert = train_expert(ConvNet(1, width, 4, widths=(4,)), samples, training=training, task=2, name="e")
    assert (expert.classes, expert.outputs, expert.image_shape) == ((3, 7), outputs, (1, 4, 4))
    assert (expert.task, expert.name, expert.module.training) == (2, "e", False)
    assert (expert.labels(samples.images) == samples.labels).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_other_ones() -> None:
    start = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 2))

    def train(seed: int) -> torch.Tensor:
        module = copy.deepcopy(start)
        train_expert(module, blobs(), training=ExpertTraining(epochs=2, batch_size=8), seed=seed)
        return module[2].weight.detach()

    torch.manual_seed(1)
    first = train(0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(train(0), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(train(1), first)


@pytest.mark.parametrize(("count", "steps"), [(16, 2), (17, 2), (18, 3), (3, 1), (1, 1)])
def test_a_last_mini_batch_of_one_image_is_left_out(count: int, steps: int) -> None:
    batches: list[int] = []
    module = linear(1)
    module.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])) if module.training else None)
    train_expert(module, blobs(count, (5,)), training=ExpertTraining(epochs=1, batch_size=8))
    assert len(batches) == steps


def test_augmentation_sees_pixels() -> None:
    seen: list[float] = []

    class Watch:
        def __call__(self, images: torch.Tensor, generator: torch.Generator, /) -> torch.Tensor:
            seen.append(float(images.max()))
            return images

    training = ExpertTraining(epochs=1, augmentation=Watch())
    train_expert(linear(2), blobs(), training=training, mean=(100.0,), std=(0.1,))
    assert 0 < max(seen) <= 1


def test_progress_is_told_after_each_epoch() -> None:
    told: list[tuple[int, int]] = []
    train_expert(
        linear(2), blobs(), training=ExpertTraining(epochs=3), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_loss_of_nan_is_a_typed_error() -> None:
    samples = blobs()
    samples.images[3] = float("nan")
    with pytest.raises(NonFiniteError, match="epoch 1"):
        train_expert(linear(2), samples)


def test_data_and_head_must_fit() -> None:
    samples = blobs()
    with pytest.raises(ExpertError, match="output unit for every class"):
        train_expert(linear(5), samples)
    with pytest.raises(ExpertError, match="takes images"):
        train_expert(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), samples)
    with pytest.raises(ExpertError, match="at least one class"):
        train_expert(linear(2), samples[:0])
    expert = Expert(linear(2), (3, 8), (1, 4, 4))
    with pytest.raises(ExpertError, match=r"\[3, 7\]"):
        ExpertTraining()(expert, samples, 0)
    with pytest.raises(ExpertError, match="none"):
        ExpertTraining()(expert, samples[:0], 0)


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"learning_rate": 0.0}, {"momentum": 1.5}, {"schedule": "linear"}, {"batch_size": 2.5}]
)
def test_settings_out_of_range_are_typed_errors(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        ExpertTraining(**settings)  # type: ignore[arg-type]
