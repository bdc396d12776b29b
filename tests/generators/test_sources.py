"""Where images come from: files there and back and every fault in them, memory, patches of photographs."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from exml.core.errors import CheckpointError, DataError, SettingError
from exml.core.serialization import from_plain, to_plain
from exml.generators import ImageFile, InMemory, PhotoPatches
from exml.protocols import Source

BYTES = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)


@pytest.mark.parametrize("source", [ImageFile("x"), InMemory(torch.zeros(1, 1, 2, 2)), PhotoPatches()])
def test_all_are_sources(source):
    assert isinstance(source, Source)
    assert repr(source).startswith(type(source).__name__)
    assert isinstance(hash(source), int)


@pytest.mark.parametrize("source", [ImageFile("a/b.safetensors"), PhotoPatches((3, 4, 4), 7)])
def test_components_go_to_plain_data_and_back(source):
    assert from_plain(to_plain(source), type(source)) == source


def test_bytes_stay_bytes(tmp_path):
    source = ImageFile.write(tmp_path / "a.safetensors", BYTES, torch.tensor([3, 1]))
    assert source == ImageFile(str(tmp_path / "a.safetensors"))
    images, labels = source(1)
    assert torch.equal(images, BYTES)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [3, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_stay_as_they_are(tmp_path, dtype):
    images, labels = ImageFile.write(tmp_path / "a.safetensors", torch.full((1, 1, 2, 2), -1.5, dtype=dtype))(1)
    assert torch.equal(images, torch.full((1, 1, 2, 2), -1.5))
    assert labels is None


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (BYTES.long(), None, "int64.*uint8"),
        (BYTES[0], None, r"got \(3, 4, 5\)"),
        (BYTES.numpy(), None, "got ndarray"),
        (BYTES, torch.tensor([0]), r"'labels' \(2,\)"),
        (BYTES, torch.tensor([0.0, 1.0]), "float32"),
        (BYTES, [0, 1], "got list"),
    ],
)
def test_tensors_in_memory_of_another_form(images, labels, expected):
    with pytest.raises(DataError, match=expected):
        InMemory(images, labels)


def test_labels_of_32_bits_are_widened(tmp_path):
    _, labels = ImageFile.write(tmp_path / "a.safetensors", BYTES, torch.tensor([3, 1], dtype=torch.int32))(1)
    assert labels.dtype == torch.int64


def test_what_does_not_fit_is_not_written(tmp_path):
    path = tmp_path / "a.safetensors"
    for images, labels in [
        (BYTES[0], None),
        (BYTES.int(), None),
        (BYTES, torch.zeros(3).long()),
        (BYTES, torch.zeros(2)),
    ]:
        with pytest.raises(DataError):
            ImageFile.write(path, images, labels)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError):
        ImageFile.write(tmp_path / "file" / "a.safetensors", BYTES)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"pictures": BYTES}, "'images'.*got none"),
        ({"images": BYTES.long()}, "torch.int64"),
        ({"images": BYTES[0]}, r"got \(3, 4, 5\)"),
        ({"images": BYTES, "labels": torch.zeros(1).long()}, r"'labels' \(2,\)"),
        ({"images": BYTES, "labels": torch.zeros(2)}, "float32"),
    ],
)
def test_a_file_of_something_else(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=message):
        ImageFile(tmp_path / "a.safetensors")(1)


def test_a_file_that_is_absent_or_no_file_or_cut_off(tmp_path):
    ImageFile.write(tmp_path / "whole", BYTES)
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-9])
    (tmp_path / "text").write_text("images")
    assert load_file(tmp_path / "whole").keys() == {"images"}
    for name in ("absent", "text", "cut", "."):
        with pytest.raises(DataError, match=r"ImageFile\.write"):
            ImageFile(tmp_path / name)(1)


def test_memory_gives_what_it_was_given():
    images, labels = torch.rand(3, 1, 2, 2), torch.tensor([1, 2, 3])
    source = InMemory(images, labels)
    assert source(5)[0] is images
    assert source(5)[1] is labels
    assert repr(source) == "InMemory(images=3x1x2x2, labels=yes)"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 5, 9), (1, 427, 640)])
def test_patches_have_their_shape_and_are_always_the_same(shape):
    images, labels = PhotoPatches(shape, count=7)(1)
    assert images.shape == (7, *shape)
    assert labels is None
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, PhotoPatches(shape, count=7)(2)[0])


def test_the_largest_patches_are_the_photographs():
    """Mirrored or not; nothing else has room in 427 x 640 pixels."""
    photos = [photo.astype(np.float64) / 255 for photo in load_sample_images().images]
    for patch in PhotoPatches((3, 427, 640), count=8)(1)[0]:
        pixels = patch.permute(1, 2, 0).numpy()
        distances = [np.abs(pixels - turned).max() for photo in photos for turned in (photo, photo[:, ::-1])]
        assert min(distances) < 1e-6


def test_grey_patches_are_the_luma_of_the_colour_ones():
    """By the weights of ITU-R BT.601; both draw the same places."""
    grey, colour = (PhotoPatches((channels, 16, 16), count=20)(1)[0] for channels in (1, 3))
    luma = np.tensordot(colour.double().numpy(), [0.299, 0.587, 0.114], axes=(1, 0))
    np.testing.assert_allclose(grey[:, 0].numpy(), luma, atol=1e-5)


def test_patches_differ_and_come_at_several_scales():
    images = PhotoPatches(count=500)(1)[0].flatten(1)
    assert len({tuple(image.tolist()) for image in images}) > 490
    assert 0.25 < images.mean() < 0.75
    assert images.std(1).max() > 10 * images.std(1).median() / 4


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 428, 8), (1, 8, 641), (1, 0, 8), (1, 8)])
def test_shapes_that_the_photographs_do_not_have(shape):
    with pytest.raises(SettingError, match="image_shape"):
        PhotoPatches(shape)
