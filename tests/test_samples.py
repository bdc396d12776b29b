"""Samples: rows stay together whatever is done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from exml.core.errors import ShapeError
from exml.core.samples import Samples


def numbered(count: int, first: int = 0, targets: int | None = None) -> Samples:
    """Row k has the number ``first + k`` in every field."""
    row = torch.arange(first, first + count)
    return Samples(
        row.float().view(-1, 1, 1, 1).expand(-1, 2, 3, 3).clone(),
        row,
        row + 1000,
        row + 2000,
        None if targets is None else row.float().view(-1, 1).expand(-1, targets).clone(),
    )


def rows(samples: Samples) -> list[int]:
    """The numbers of the rows, which all fields must agree on."""
    found = samples.labels.tolist()
    assert samples.images[:, 0, 0, 0].tolist() == found
    assert [task - 1000 for task in samples.tasks.tolist()] == found
    assert [experience - 2000 for experience in samples.experiences.tolist()] == found
    if samples.targets is not None:
        assert samples.targets[:, 0].tolist() == found
    return found


@given(count=st.integers(0, 8), data=st.data(), targets=st.sampled_from([None, 4]))
def test_an_index_takes_whole_rows(count: int, data: st.DataObject, targets: int | None) -> None:
    samples = numbered(count, targets=targets)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=torch.bool)
    assert rows(samples[mask]) == [row for row in range(count) if mask[row]]
    start, stop = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    assert rows(samples[start:stop]) == list(range(count))[start:stop]
    if count:
        chosen = data.draw(st.lists(st.integers(0, count - 1), max_size=10))
        assert rows(samples[torch.tensor(chosen, dtype=torch.int64)]) == chosen


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_concat_keeps_the_order(counts: list[int]) -> None:
    parts = [numbered(count, first=10 * place) for place, count in enumerate(counts)]
    expected = [10 * place + row for place, count in enumerate(counts) for row in range(count)]
    assert rows(Samples.concat(parts)) == expected


def test_concat_pads_targets_to_the_widest_and_drops_them_unless_all_have_some() -> None:
    both = Samples.concat([numbered(2, targets=2), numbered(1, first=5, targets=4)])
    assert both.targets is not None
    assert both.targets.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [5, 5, 5, 5]]
    assert Samples.concat([numbered(2, targets=2), numbered(1)]).targets is None


def test_concat_needs_one_image_shape() -> None:
    other = Samples.of(torch.zeros(1, 1, 3, 3), torch.zeros(1, dtype=torch.int64))
    for parts in ([], [numbered(1), other]):
        with pytest.raises(ShapeError, match="one image shape"):
            Samples.concat(parts)


@pytest.mark.parametrize("targets", [None, 3])
def test_the_state_comes_back(targets: int | None) -> None:
    samples = numbered(3, targets=targets)
    again = Samples.from_state(dict(samples.state()))
    for field in attrs.fields(Samples):
        left, right = getattr(samples, field.name), getattr(again, field.name)
        assert (left is None and right is None) or torch.equal(left, right)


def test_of_marks_one_task_and_experience() -> None:
    samples = Samples.of(torch.zeros(3, 1, 2, 2), torch.tensor([4, 5, 6]), task=2, experience=7)
    assert (samples.tasks.tolist(), samples.experiences.tolist()) == ([2] * 3, [7] * 3)
    plain = Samples.of(torch.zeros(1, 1, 2, 2), torch.tensor([4]))
    assert (plain.tasks.tolist(), plain.experiences.tolist(), plain.targets) == ([-1], [0], None)
    assert plain.of_experience(3).experiences.tolist() == [3]
    assert plain.experiences.tolist() == [0]


def test_it_moves_as_a_whole() -> None:
    moved = numbered(2, targets=3).to("meta")
    assert {tensor.device.type for tensor in moved.state().values()} == {"meta"}


LABELS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": torch.zeros(2, 3, 3)}, "floating or uint8 images"),
        ({"images": torch.zeros(2, 1, 3, 3, dtype=torch.int32)}, "floating or uint8 images"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels \(2,\)"),
        ({"tasks": torch.zeros(2, dtype=torch.int32)}, r"tasks \(2,\) int64"),
        ({"experiences": torch.zeros(2, 1, dtype=torch.int64)}, r"experiences \(2,\)"),
        ({"targets": torch.zeros(2)}, r"targets \(2, classes\)"),
        ({"targets": torch.zeros(3, 4)}, r"targets \(2, classes\)"),
    ],
)
def test_rows_that_do_not_fit_are_typed_errors(change: dict[str, Tensor], expected: str) -> None:
    fields = {"images": torch.zeros(2, 1, 3, 3), "labels": LABELS, "tasks": LABELS, "experiences": LABELS, **change}
    with pytest.raises(ShapeError, match=expected):
        Samples(**fields)


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=9),
    data=st.data(),
    kept=st.sampled_from([torch.uint8, torch.float32, torch.float64]),
)
def test_pixels_of_an_index_are_the_bytes_over_255(values: list[int], data: st.DataObject, kept: torch.dtype) -> None:
    exact = [value / 255 for value in values]
    images = torch.tensor(values if kept == torch.uint8 else exact, dtype=kept).view(-1, 1, 1, 1)
    samples = Samples.of(images, torch.zeros(len(values), dtype=torch.int64))
    chosen = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=10))
    mask = [data.draw(st.booleans()) for _ in values]
    cases = [
        (None, exact),
        (slice(1, 3), exact[1:3]),
        (torch.tensor(chosen, dtype=torch.int64), [exact[row] for row in chosen]),
        (torch.tensor(mask), [value for value, taken in zip(exact, mask, strict=True) if taken]),
    ]
    for index, expected in cases:
        pixels = samples.pixels(index)
        assert pixels.dtype == (torch.float32 if kept == torch.uint8 else kept)
        assert pixels.shape[1:] == (1, 1, 1)
        assert pixels.flatten().tolist() == pytest.approx(expected, rel=1e-7)
    assert samples.images.flatten().tolist() == (values if kept == torch.uint8 else images.flatten().tolist())


def test_floating_pixels_are_not_copied() -> None:
    samples = numbered(3)
    assert samples.pixels() is samples.images
    assert samples.pixels(slice(1, 3)).data_ptr() == samples.images[1:].data_ptr()


def test_bytes_stay_bytes_wherever_they_go() -> None:
    samples = Samples.of(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8), torch.tensor([0, 1]))
    assert samples.to("meta").images.dtype == torch.uint8
    assert samples[:1].images.dtype == Samples.concat([samples, samples]).images.dtype == torch.uint8
    floating = Samples.of(torch.full((1, 1, 2, 2), 0.5), torch.tensor([2]))
    mixed = Samples.concat([samples, floating]).images
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.5])


class Pairs:
    """A dataset as torchvision has them."""

    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        return self.images[index], 2 * index


@pytest.mark.parametrize("kind", ["pillow", "grey pillow", "array", "grey array", "bytes", "pixels"])
def test_samples_of_any_labelled_dataset(kind: str) -> None:
    draws = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    arrays = draws[..., 0] if kind.startswith("grey") else draws
    make: dict[str, Callable[[np.ndarray], Any]] = {
        "pillow": Image.fromarray,
        "grey pillow": Image.fromarray,
        "array": lambda array: array,
        "grey array": lambda array: array,
        "bytes": transforms.pil_to_tensor,
        "pixels": transforms.to_tensor,
    }
    pillows = kind == "bytes"
    samples = Samples.from_dataset(Pairs([make[kind](Image.fromarray(a) if pillows else a) for a in arrays]))
    expected = arrays[:, None] if kind.startswith("grey") else arrays.transpose(0, 3, 1, 2)
    assert samples.images.dtype == torch.uint8
    np.testing.assert_array_equal(samples.images.numpy(), expected)
    assert samples.labels.tolist() == [0, 2, 4]


def test_samples_of_a_dataset_in_one_size() -> None:
    images = [Image.new("RGB", (8 + number, 9), (number, 0, 0)) for number in range(3)]
    samples = Samples.from_dataset(Pairs(images), size=4)
    assert samples.images.shape == (3, 3, 4, 4)
    assert samples.images[:, 0, 2, 2].tolist() == [0, 1, 2]
    with pytest.raises(ShapeError, match="give a size"):
        Samples.from_dataset(Pairs(images))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        ([], "none"),
        ([torch.full((1, 2, 2), -0.1)], "normalizes"),
        ([torch.full((1, 2, 2), 1.1)], "normalizes"),
        ([torch.full((1, 2, 2), float("nan"))], "normalizes"),
        ([torch.zeros(2, 2)], r"\(2, 2\)"),
        ([torch.zeros(1, 2, 2, dtype=torch.int32)], "int32"),
        ([np.zeros((2, 2, 1, 1), np.uint8)], r"\(2, 2, 1, 1\)"),
    ],
)
def test_datasets_of_something_else_are_typed_errors(images: list[Any], match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        Samples.from_dataset(Pairs(images))
