"""CIFAR-10 out of both layouts, against torchvision's own reading."""

import hashlib
import inspect
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from exml.core.errors import DataError
from exml.core.samples import Samples
from exml.datasets import cifar10

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inspect.unwrap(cifar10).__globals__, "VALIDATION", 1)


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny copy in torchvision's layout: 20 images in each file; torchvision expects their digests."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    draws = np.random.default_rng(0)
    listed = []
    for name in BATCHES:
        data = draws.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": data, "labels": [index % 10 for index in range(20)]})
        (folder / name).write_bytes(content)
        listed.append([name, hashlib.md5(content).hexdigest()])
    names = pickle.dumps({"label_names": [str(label) for label in range(10)]})
    (folder / "batches.meta").write_bytes(names)
    monkeypatch.setattr(CIFAR10, "train_list", listed[:5])
    monkeypatch.setattr(CIFAR10, "test_list", listed[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(names).hexdigest()})
    return tmp_path


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    """What torchvision reads."""
    found: dict[str, np.ndarray] = {}
    for part, train in (("train", True), ("test", False)):
        dataset = CIFAR10(folder, train=train)
        found[f"x_{part}"], found[f"y_{part}"] = dataset.data, np.array(dataset.targets)
    return found


@pytest.mark.parametrize("layout", ["batches", "arrays", "columns of labels"])
def test_the_parts_are_torchvisions_images_once(batches: Path, tmp_path: Path, layout: str) -> None:
    arrays = arrays_of(batches)
    folder = batches
    if layout != "batches":
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        labels = {} if layout == "arrays" else {key: arrays[key][:, None] for key in ("y_train", "y_test")}
        np.savez(folder / "cifar10.npz", **{**arrays, **labels})
    parts = cifar10(folder)
    assert {part: len(samples) for part, samples in parts.items()} == {"train": 90, "validation": 10, "test": 20}
    assert {samples.images.dtype for samples in parts.values()} == {torch.uint8}
    assert parts["validation"].labels.bincount().tolist() == [1] * 10
    pairs = zip(arrays["x_train"].transpose(0, 3, 1, 2), arrays["y_train"], strict=True)
    both = Samples.concat([parts["train"], parts["validation"]])
    found = {image.numpy().tobytes(): int(label) for image, label in zip(both.images, both.labels, strict=True)}
    assert found == {image.tobytes(): int(label) for image, label in pairs}
    np.testing.assert_array_equal(parts["test"].images.numpy(), arrays["x_test"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(parts["test"].labels.numpy(), arrays["y_test"])
    assert cifar10(folder) is parts


def test_arrays_are_taken_before_batches(batches: Path) -> None:
    arrays = arrays_of(batches)
    np.savez(batches / "cifar10.npz", **{**arrays, "x_test": 255 - arrays["x_test"]})
    found = cifar10(batches)["test"].images.numpy()
    np.testing.assert_array_equal(found, 255 - arrays["x_test"].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": np.zeros((20, 3, 32, 32), np.uint8)},
        {"x_train": np.zeros((20, 32, 32, 3), np.float32)},
        {"y_train": np.zeros(19, np.int64)},
        {"y_test": np.full(20, 10)},
        {"y_test": None},
        {"y_test": np.linspace(0, 1, 20)},
        {"y_test": np.array([{}] * 20, dtype=object)},
    ],
)
def test_arrays_that_are_not_cifar10s_are_typed_errors(tmp_path: Path, change: dict[str, np.ndarray | None]) -> None:
    images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, **change}
    np.savez(tmp_path / "cifar10.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DataError, match=r"cifar10\.npz"):
        cifar10(tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 100, "a single array"])
def test_broken_arrays_are_typed_errors(tmp_path: Path, cut: int | str) -> None:
    path = tmp_path / "cifar10.npz"
    np.savez(path, x_train=np.zeros((2, 32, 32, 3), np.uint8))
    if isinstance(cut, int):
        path.write_bytes(path.read_bytes()[:cut])
    else:
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"cifar10\.npz"):
        cifar10(tmp_path)


def test_batches_of_another_digest_are_never_unpickled(batches: Path) -> None:
    path = batches / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b".")
    with pytest.raises(DataError, match=r"CIFAR-10 in .*cifar-10-batches-py.*EXML_DATA"):
        cifar10(batches)


def test_a_named_folder_is_left_alone_and_the_cache_is_downloaded_to(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").mkdir()
    with pytest.raises(DataError, match="CIFAR-10"):
        cifar10(tmp_path / "named")
    assert list((tmp_path / "named").iterdir()) == []

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(DataError, match="no network"):
        cifar10(cache)


def test_the_real_images_are_fixed_for_ever(exml_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published numbers depend on them."""
    namespace = inspect.unwrap(cifar10).__globals__
    monkeypatch.setitem(namespace, "VALIDATION", 500)
    namespace["_parts"].cache_clear()
    parts = cifar10(exml_data)
    for part, count in (("train", 4_500), ("validation", 500), ("test", 1_000)):
        assert parts[part].labels.bincount().tolist() == [count] * 10
    ink = {part: samples.images.long().sum((1, 2, 3)) for part, samples in parts.items()}
    weighted = {part: int((sums * torch.arange(len(sums))).sum()) for part, sums in ink.items()}
    namespace["_parts"].cache_clear()
    assert weighted == {"train": 375_143_903_673_170, "validation": 4_656_517_444_320, "test": 18_607_512_033_406}
