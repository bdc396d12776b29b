"""Named datasets as auxiliary data: made files in the layouts that are looked for."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from exml.core.errors import DataError, SettingError
from exml.core.serialization import from_plain, to_plain
from exml.experts import Expert
from exml.generators import AuxiliaryData, DatasetImages
from exml.protocols import Source


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_grey(folder: Path, name: str) -> np.ndarray:
    """5,010 training images: 501 of each class, of which one is not for validation."""
    images = np.random.default_rng(0).integers(0, 256, (5010, 28, 28), dtype=np.uint8)
    place = folder / name / "raw"
    place.mkdir(parents=True)
    for part, count in (("train", 5010), ("t10k", 10)):
        values = {"images-idx3": images[:count], "labels-idx1": (np.arange(count) % 10).astype(np.uint8)}
        for kind, array in values.items():
            header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (place / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return images


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_grey_images_are_padded(data: Path, name: str, folder: str) -> None:
    images = write_grey(data, folder)
    for size in (28, 32):
        found, labels = DatasetImages(name, size)(1)
        margin = (size - 28) // 2
        assert labels is None
        assert found.shape == (5010, 1, size, size)
        inner = found[:, 0, margin : size - margin, margin : size - margin].numpy()
        assert {image.tobytes() for image in inner} == {image.tobytes() for image in images}
        assert int(found.long().sum()) == int(images.astype(np.int64).sum())  # black around
    assert DatasetImages(name, 14)(1)[0].shape == (5010, 1, 14, 14)


def test_photographs_are_resized_and_labelled_by_the_expert(data: Path) -> None:
    (data / "imagenet").mkdir()
    for number in range(3):
        Image.new("RGB", (30, 20), (51 * number, 255, 0)).save(data / "imagenet" / f"{number}.png")
    source = DatasetImages("imagenet", 8)
    found, _ = source(1)
    assert found.dtype == torch.uint8
    assert found[:, :, 4, 4].tolist() == [[0, 255, 0], [51, 255, 0], [102, 255, 0]]
    assert source(7)[0] is found  # read once
    assert len(DatasetImages("imagenet", 8, limit=2)(1)[0]) == 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    expert = Expert(net, (3, 7), (3, 8, 8))
    samples = AuxiliaryData(source)(expert, 3, 0)
    assert samples.images.dtype == torch.float32
    colours = sorted(samples.images[:, :, 4, 4].tolist())
    np.testing.assert_allclose(colours, [[0, 1, 0], [0.2, 1, 0], [0.4, 1, 0]], atol=1e-6)
    with torch.no_grad():
        assert samples.labels.tolist() == [(3, 7)[unit] for unit in net(samples.images).argmax(1).tolist()]


def test_cifar10_has_the_requested_size(data: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5010, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(5010) % 10
    np.savez(data / "cifar10.npz", x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    found, _ = DatasetImages("cifar10")(1)
    assert {image.numpy().tobytes() for image in found} == {image.transpose(2, 0, 1).tobytes() for image in images}
    assert DatasetImages("cifar10", 16)(1)[0].shape == (5010, 3, 16, 16)


def test_it_is_a_source_that_serialises() -> None:
    source = DatasetImages("imagenet", size=128, limit=10)
    assert isinstance(source, Source)
    generator = AuxiliaryData(source)
    assert from_plain(to_plain(generator), AuxiliaryData) == generator


@pytest.mark.parametrize(
    ("name", "where"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "cifar-10"), ("imagenet", "imagenet")],
)
def test_absent_datasets_are_typed_errors(name: str, where: str) -> None:
    with pytest.raises(DataError, match=rf"{where}.*EXML_DATA"):
        DatasetImages(name)(1)


@pytest.mark.parametrize("settings", [{"name": "svhn"}, {"name": "mnist", "size": 0}, {"name": "imagenet", "limit": 0}])
def test_settings_out_of_range_are_typed_errors(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        DatasetImages(**settings)
