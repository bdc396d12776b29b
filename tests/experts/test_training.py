"""Training experts: plain SGD as torch does it, the right head, the same for the same seed."""

import copy
import inspect
import math
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from exml.core.errors import ExmlWarning, ExpertError, NonFiniteError, SettingError
from exml.core.samples import Samples
from exml.experts import Expert, ExpertTraining, train_expert, untrained_expert
from exml.experts._checkpoint import TrainingCheckpoint
from exml.models import ConvNet


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
    assert (expert.predicted_ids(samples.images) == samples.labels).float().mean() > 0.9


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


def test_in_bfloat16_the_network_rounds_and_weights_and_loss_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    loss = nn.functional.cross_entropy
    monkeypatch.setattr(
        nn.functional, "cross_entropy", lambda logits, units: seen.append(logits.dtype) or loss(logits, units)
    )
    rounded, exact = linear(2), linear(2)
    inside: list[torch.dtype] = []

    def record(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        if layer.training:
            inside.append(output.dtype)

    rounded[1].register_forward_hook(record)
    settings = ExpertTraining(epochs=20, batch_size=8, learning_rate=0.3, precision="bfloat16")
    samples = blobs()
    expert = train_expert(rounded, samples, training=settings, mean=(0.5,), std=(0.25,))
    train_expert(exact, samples, training=attrs.evolve(settings, precision="float32"), mean=(0.5,), std=(0.25,))
    assert set(inside) == {torch.bfloat16}
    assert set(seen) == {torch.float32}
    assert rounded[1].weight.dtype == torch.float32
    assert not torch.equal(rounded[1].weight, exact[1].weight)
    torch.testing.assert_close(rounded[1].weight, exact[1].weight, rtol=0.05, atol=0.05)
    assert expert.predicted_ids(samples.images).equal(samples.labels)


def test_augmentation_sees_pixels() -> None:
    seen: list[float] = []

    class Watch:
        def __call__(self, images: torch.Tensor, generator: torch.Generator, /) -> torch.Tensor:
            seen.append(float(images.max()))
            return images

    training = ExpertTraining(epochs=1, augmentation=Watch())
    train_expert(linear(2), blobs(), training=training, mean=(5.0,), std=(0.1,))
    assert 0 < max(seen) <= 1


def module_with_everything() -> nn.Module:
    """Batch norm has buffers, dropout and augmentation draw numbers, convolutions have another order in memory."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2))


class Noise:
    """An augmentation that draws numbers, and kills the training at a step."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.steps = kill_at, 0

    def __repr__(self) -> str:
        return "Noise()"

    def __call__(self, images: torch.Tensor, generator: torch.Generator, /) -> torch.Tensor:
        self.steps += 1
        if self.steps == self.kill_at:
            raise KeyboardInterrupt
        return images + 0.1 * torch.rand(images.shape, generator=generator)


def train_with_everything(path: Path | None, kill_at: int | None = None, momentum: float = 0.9, seed: int = 0) -> Any:
    noise = Noise(kill_at)
    training = ExpertTraining(
        epochs=3, batch_size=8, learning_rate=0.1, momentum=momentum, schedule="cosine", augmentation=noise
    )
    module = module_with_everything()
    with suppress(KeyboardInterrupt):
        training(untrained_expert(module, blobs()), blobs(), seed, None, path)
    return module, noise.steps


def equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.fixture
def save_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inspect.unwrap(TrainingCheckpoint.save).__globals__, "PERIOD", 0.0)


@pytest.mark.usefixtures("save_each_step")
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("kill_at", [1, 2, 5, 6, 8, 15])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path, kill_at: int, momentum: float) -> None:
    """There are five steps in each of three epochs."""
    wanted, steps = train_with_everything(None, momentum=momentum)
    assert steps == 15
    path = tmp_path / "expert.training"
    train_with_everything(path, kill_at, momentum)
    module, steps = train_with_everything(path, momentum=momentum)
    assert steps == 15 - (kill_at - 1)
    assert equal(module, wanted)


@pytest.mark.usefixtures("save_each_step")
@pytest.mark.parametrize(("seed", "bit"), [(1, None), (0, 3), (0, 501), (0, -9), (0, -4001)])
def test_a_checkpoint_of_other_training_and_a_damaged_one_are_ignored(
    tmp_path: Path, seed: int, bit: int | None
) -> None:
    path = tmp_path / "expert.training"
    train_with_everything(path, 9)
    if bit is not None:
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    module, steps = train_with_everything(path, seed=seed)
    assert steps == 15
    assert equal(module, train_with_everything(None, seed=seed)[0])


@pytest.mark.usefixtures("save_each_step")
def test_resumed_training_states_another_number_of_threads(tmp_path: Path) -> None:
    train_with_everything(tmp_path / "expert.training", 9)
    torch.set_num_threads(2)
    try:
        with pytest.warns(ExmlWarning, match=r"expert.training was written with 1 thread\(s\), and torch has 2"):
            train_with_everything(tmp_path / "expert.training")
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("save_each_step")
def test_weights_of_nan_are_not_kept(tmp_path: Path) -> None:
    samples = blobs()
    samples.images[3] = float("nan")
    expert, training = untrained_expert(linear(2), samples), ExpertTraining(batch_size=8)
    with pytest.raises(NonFiniteError, match="epoch 1"):
        training(expert, samples, 0, None, tmp_path / "expert.training")
    for path in tmp_path.iterdir():  # those of the steps before the image was seen
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


def test_between_two_checkpoints_passes_some_time(tmp_path: Path) -> None:
    train_with_everything(tmp_path / "expert.training")
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_memory_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, which draws in the order of memory."""
    start = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 2), nn.Flatten(), nn.Linear(8, 2)
    )

    def train() -> nn.Module:
        module = copy.deepcopy(start)
        training = ExpertTraining(epochs=1, batch_size=16, learning_rate=0.01)
        train_expert(module, blobs(), training=training)
        return module

    got = train()
    assert all(parameter.is_contiguous() for parameter in got.parameters())
    names = inspect.unwrap(ExpertTraining.__call__).__globals__
    monkeypatch.setitem(names, "channels_last", lambda *_: nullcontext())
    for one, two in zip(got.parameters(), train().parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_bytes_teach_what_pixels_teach() -> None:
    samples = blobs()
    kept = attrs.evolve(samples, images=(255 * samples.images).to(torch.uint8))
    floating = attrs.evolve(kept, images=kept.pixels())
    modules = [linear(2), linear(2)]
    for module, some in zip(modules, (kept, floating), strict=True):
        train_expert(module, some, training=ExpertTraining(epochs=2))
    assert equal(*modules)


def test_progress_is_told_after_each_epoch() -> None:
    told: list[tuple[int, int]] = []
    training = ExpertTraining(epochs=3)
    training(untrained_expert(linear(2), blobs()), blobs(), 0, lambda done, total: told.append((done, total)))
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
    ("field", "value"),
    {
        "epochs": 0,
        "learning_rate": 0.0,
        "momentum": 1.5,
        "schedule": "linear",
        "precision": "half",
        "batch_size": 2.5,
    }.items(),
)
def test_settings_out_of_range_are_typed_errors(field: str, value: object) -> None:
    with pytest.raises(SettingError):
        ExpertTraining(**{field: value})  # type: ignore[arg-type]
