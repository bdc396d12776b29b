"""Folders of photographs, ImageNet in its forms, and weights that know it; torchvision's resizing is the oracle."""

import inspect
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2
from torchvision.transforms.v2 import functional as transforms

from exml.core.errors import DataError, SettingError
from exml.core.samples import fitted
from exml.datasets import image_folder, imagenet, imagenet_weights

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40), channels=st.sampled_from([1, 3]))
def test_the_centre_square_is_resized_as_torchvision_does(height: int, width: int, size: int, channels: int) -> None:
    image = torch.from_numpy(NOISE[:height, :width, :channels]).permute(2, 0, 1)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[:, top : top + side, left : left + side].double()
    expected = transforms.resize(square, [size, size], antialias=True)
    found = fitted(image, size)
    assert found.dtype == torch.uint8
    assert found.shape == (channels, size, size)
    assert float((found.double() - expected).abs().max()) <= 0.51  # rounded to whole numbers


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two folders of classes, a deeper one, another file, and a photograph next to the folders."""
    folder = tmp_path / "photographs"
    for name, colour in (("b/2.png", 20), ("b/1.JPEG", 10), ("a/x/3.jpg", 30), ("0.png", 40)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (colour, 0, 0)).save(folder / name)
    (folder / "a" / "notes.txt").write_text("no photograph")
    return folder


def test_folders_are_classes_and_files_come_in_the_order_of_their_names(photographs: Path) -> None:
    samples = image_folder(photographs, 8)
    assert samples.images.shape == (4, 3, 8, 8)
    reds = samples.images[:, 0, 4, 4].tolist()
    assert np.abs(np.array(reds) - [40, 30, 10, 20]).max() <= 2  # 0.png, a/x/3.jpg, b/1.JPEG, b/2.png; JPEG is lossy
    assert samples.labels.tolist() == [0, 0, 1, 1]


def test_a_limit_takes_files_evenly(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("L", (4, 4), number * 20).save(tmp_path / f"{number}.png")
    for limit, expected in ((3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10))), (1, [0])):
        samples = image_folder(tmp_path, 4, limit=limit)
        assert (samples.images[:, 2, 0, 0] // 20).tolist() == expected


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    path = tmp_path / ("0.jpg" if mode == "CMYK" else "0.png")
    image.save(path)
    found = image_folder(tmp_path, 40).images[0].numpy()
    wanted = np.asarray(Image.open(path).convert("RGB"))[:, 10:50].transpose(2, 0, 1)
    np.testing.assert_array_equal(found, wanted)


def test_a_broken_photograph_is_named(photographs: Path) -> None:
    path = photographs / "b" / "1.JPEG"
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"b/1\.JPEG"):
        image_folder(photographs, 8)


def test_nothing_to_read_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, got in (("empty", "none"), ("absent", "no such folder")):
        with pytest.raises(DataError, match=got):
            image_folder(tmp_path / name, 8)
    for size, limit in ((0, None), (8, 0)):
        with pytest.raises(SettingError, match="from 1"):
            image_folder(tmp_path, size, limit=limit)


def test_imagenet_is_looked_for_in_three_places(tmp_path: Path, photographs: Path) -> None:
    with pytest.raises(DataError, match=r"photographs of ImageNet in .*imagenet.*EXML_DATA"):
        imagenet(32, folder=tmp_path)
    few = tmp_path / "imagenet1000_128"
    few.mkdir()
    Image.new("RGB", (128, 128), (7, 8, 9)).save(few / "n0.png")
    assert imagenet(32, folder=tmp_path).images[:, :, 0, 0].tolist() == [[7, 8, 9]]
    photographs.rename(tmp_path / "imagenet")
    assert len(imagenet(32, folder=tmp_path)) == 4
    assert len(imagenet(32, folder=tmp_path, limit=2)) == 2
    tiny = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "tiny_imagenet32.npz", x=tiny)
    assert np.array_equal(imagenet(32, folder=tmp_path).images.numpy(), tiny.transpose(0, 3, 1, 2))
    assert len(imagenet(32, folder=tmp_path, limit=2)) == 2
    assert imagenet(16, folder=tmp_path).images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("content", [{"y": np.zeros(3)}, {"x": np.zeros((2, 32, 32, 3))}, {"x": np.zeros(3, np.uint8)}])
def test_arrays_that_are_no_photographs_are_typed_errors(tmp_path: Path, content: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "tiny_imagenet32.npz", **content)
    with pytest.raises(DataError, match=r"tiny_imagenet32\.npz"):
        imagenet(32, folder=tmp_path)


def test_weights_are_all_but_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = mobilenet_v2().state_dict()
    save_file(state, tmp_path / "mobilenet_v2_imagenet1k_v1.safetensors")
    monkeypatch.setenv("EXML_DATA", str(tmp_path))
    found = imagenet_weights("mobilenet-v2")
    assert set(state) - set(found) == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    with pytest.raises(SettingError, match="mobilenet-v2"):
        imagenet_weights("lenet5")


def test_weights_that_are_not_there_or_broken_are_typed_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setenv("EXML_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no network.*EXML_DATA"):
        imagenet_weights("mobilenet-v2")
    (tmp_path / "mobilenet_v2_imagenet1k_v1.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(DataError, match=r"mobilenet_v2_imagenet1k_v1\.safetensors"):
        imagenet_weights("mobilenet-v2")


def test_weights_are_downloaded_to_the_cache_with_their_digest(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def download(url: str, place: str, **settings: object) -> dict[str, torch.Tensor]:
        asked.append((url, place, settings["check_hash"], settings["weights_only"]))
        return {"features.0": torch.ones(1), "classifier.1.bias": torch.ones(1)}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.delenv("EXML_DATA", raising=False)
    assert set(imagenet_weights("mobilenet-v2")) == {"features.0"}
    inspect.unwrap(imagenet_weights).__globals__["_mobilenet_v2"].cache_clear()
    assert asked == [
        ("https://download.pytorch.org/models/mobilenet_v2-b0353104.pth", str(cache / "weights"), True, True)
    ]
