"""The scenarios on MNIST: their layout on a tiny copy of the format, and the real images where they are at hand."""

from __future__ import annotations

import inspect
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import MNIST

from exml import cli, scenarios
from exml.core.errors import DataError, UnknownNameError
from exml.datasets.torchvision_datasets import _parts, mnist
from exml.experts import ExpertTraining
from exml.recipes import for_scenario
from exml.scenarios.paper import _load

NAMES = ("mnist-joint", "mnist-nc")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What one test has loaded is not another's, and is not kept in memory for the rest of the tests."""
    yield
    for cached in (_load, _parts):
        cached.cache_clear()


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file as http://yann.lecun.com/exdb/mnist describes it."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """100 training images and 20 test images, no two alike, where EXML_DATA says; 3 of each class for validation."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for part, count in (("train", 100), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte", draws.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    monkeypatch.setenv("EXML_DATA", str(tmp_path))
    monkeypatch.setitem(inspect.unwrap(mnist).__globals__, "VALIDATION", 3)
    return tmp_path


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def files(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """All images of a file as they should come out: 32x32, uint8."""
    dataset = MNIST(folder, train=train)
    images = torch.zeros(len(dataset.data), 1, 32, 32, dtype=torch.uint8)
    images[:, 0, 2:30, 2:30] = dataset.data
    return images, dataset.targets


def test_the_parts_are_all_images_of_the_files_once(tiny_mnist: Path) -> None:
    parts = scenarios.mnist_images()
    images, labels = files(tiny_mnist, train=True)
    assert as_set(parts["train"].images) | as_set(parts["validation"].images) == as_set(images)
    assert (len(parts["train"]), len(parts["validation"])) == (70, 30)
    assert parts["validation"].labels.bincount().tolist() == [3] * 10
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for part in ("train", "validation"):
        expected = [label_of[image.numpy().tobytes()] for image in parts[part].images]
        assert parts[part].labels.tolist() == expected
    tested, classes = files(tiny_mnist, train=False)
    assert torch.equal(parts["test"].images, tested)
    assert torch.equal(parts["test"].labels, classes)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("name", NAMES)
def test_every_image_of_a_part_is_in_one_experience(tiny_mnist: Path, name: str, split: scenarios.Split) -> None:
    del tiny_mnist
    parts, scenario = scenarios.mnist_images(), scenarios.load(name, 3, split)
    for chosen, part in (("train", "train"), ("test", split)):
        found = [as_set(getattr(experience, chosen).images) for experience in scenario.experiences]
        assert sum(map(len, found)) == len(set().union(*found)) == len(parts[part])
        assert set().union(*found) == as_set(parts[part].images)
    for experience in scenario.experiences:
        for samples in (experience.train, experience.test):
            assert tuple(samples.labels.unique().tolist()) == experience.classes
    sizes = [len(experience.classes) for experience in scenario.experiences]
    assert sizes == ([10] if name == "mnist-joint" else [2] * 5)
    pixels = parts["train"].images.double() / 255
    assert scenario.mean == pytest.approx((float(pixels.mean()),))
    assert scenario.std == pytest.approx((float(((pixels - pixels.mean()) ** 2).mean().sqrt()),))


def test_the_experts_are_lenet5_trained_as_appendix_a_says(tiny_mnist: Path) -> None:
    del tiny_mnist
    for name, epochs in (("mnist-joint", 100), ("mnist-nc", 20)):
        scenario = scenarios.load(name)
        assert scenario.training == ExpertTraining(
            epochs=epochs, batch_size=32, learning_rate=0.01, momentum=0.9, weight_decay=5e-4
        )
        module = scenario.make_module(0, "experts")
        assert type(module).__name__ == "LeNet5"
        assert module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
        again = scenario.make_module(0, "experts")
        assert all(
            torch.equal(left, right) for left, right in zip(module.parameters(), again.parameters(), strict=True)
        )


def test_a_scenario_is_read_once_and_belongs_to_its_folder(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scenarios.load("mnist-nc", 1)
    assert scenarios.load("mnist-nc", 1) is first
    assert scenarios.load("mnist-nc", 2) is not first
    assert [e.classes for e in scenarios.load("mnist-nc", 2).experiences] != [e.classes for e in first.experiences]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "MNIST").mkdir(parents=True)
    (tiny_mnist / "MNIST" / "raw").rename(elsewhere / "MNIST" / "raw")
    monkeypatch.setenv("EXML_DATA", str(elsewhere))
    assert scenarios.load("mnist-nc", 1) is not first


def test_lists_read_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "nowhere"))
    assert cli.main(["scenarios"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^mnist-nc +5 experiences of 2 classes \(10 in all\), images 1x32x32; MNIST *$", said, re.M)
    with pytest.raises(UnknownNameError, match="mnist-nc, mnist-joint"):
        scenarios.describe("mnist")


def test_descriptions_say_what_the_scenarios_are(tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del tiny_mnist
    said = {name: scenarios.describe(name) for name in NAMES}
    monkeypatch.setattr("exml.scenarios.registry._DESCRIPTIONS", {})
    assert {name: f"{scenarios.describe(name)}; MNIST" for name in NAMES} == said


def test_a_named_folder_without_mnist_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXML_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"MNIST in .*raw.*not found.*EXML_DATA"):
        scenarios.load("mnist-nc")
    assert list(tmp_path.iterdir()) == []


def test_without_data_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.delenv("EXML_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"exml.MNIST.raw.*no network.*set EXML_DATA"):
        scenarios.load("mnist-joint")


def test_the_cache_is_found_without_a_name(tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache" / "exml").mkdir(parents=True)
    (tiny_mnist / "MNIST").rename(tmp_path / "cache" / "exml" / "MNIST")
    monkeypatch.delenv("EXML_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(scenarios.load("mnist-joint").experiences[0].train) == 70


@pytest.mark.parametrize("damage", ["short", "empty", "of another type", "no images"])
def test_files_that_are_not_mnist_are_typed_errors(tiny_mnist: Path, damage: str) -> None:
    images = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(
        {"short": whole[:-1], "empty": b"", "of another type": b"\x00\x00\x0d" + whole[3:], "no images": whole[:8]}[
            damage
        ]
    )
    with pytest.raises(DataError, match="EXML_DATA"):
        scenarios.load("mnist-nc")


def test_the_source_gives_the_training_images(tiny_mnist: Path) -> None:
    del tiny_mnist
    experience = scenarios.load("mnist-nc", 4).experiences[1]
    images, labels = scenarios.ScenarioSource("mnist-nc", 4)(2)
    assert torch.equal(images, experience.train.images)
    assert labels is not None
    assert torch.equal(labels, experience.train.labels)
    assert for_scenario("replay", "mnist-nc", 4).build().generator.source == scenarios.ScenarioSource("mnist-nc", 4)


def test_the_real_parts_are_fixed_for_ever(exml_data: Path) -> None:
    """Published numbers depend on them."""
    parts = scenarios.mnist_images()
    assert {part: len(samples) for part, samples in parts.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    assert parts["validation"].labels.bincount().tolist() == [500] * 10
    images, _ = files(exml_data, train=True)
    together = torch.cat([parts["train"].images, parts["validation"].images])
    assert torch.equal(together.long().sum((1, 2, 3)).sort().values, images.long().sum((1, 2, 3)).sort().values)
    ink = {part: samples.images.long().sum((1, 2, 3)) for part, samples in parts.items()}
    weighted = {part: int((sums * torch.arange(len(sums))).sum()) for part, sums in ink.items()}
    assert weighted == {"train": 39_334_018_395_908, "validation": 327_576_246_862, "test": 1_377_020_976_277}
