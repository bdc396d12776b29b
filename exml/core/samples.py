"""Samples: the pairs ⟨x, y⟩ of generators and buffers, and their images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from exml.core.errors import ShapeError
from exml.core.html import escaped, thumbnail
from exml.core.shapes import Images, Labels, State

StoredImages: TypeAlias = Float[Tensor, "batch channels height width"] | UInt8[Tensor, "batch channels height width"]
"""Images in storage: floating in pixel units, or uint8, where 255 is 1.0 in pixel units."""


def to_pixels(images: StoredImages) -> Images:
    """Convert uint8 images to floating ones in pixel units; floating images are returned as they are.

    >>> import torch
    >>> from exml.core.samples import to_pixels
    >>> to_pixels(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def inference_batch_size(image_shape: Sequence[int], /) -> int:
    """The batch size for a forward pass without gradients, from 64 to 512; it falls with the size of an image.

    >>> from exml.core.samples import inference_batch_size
    >>> [inference_batch_size((3, size, size)) for size in (32, 64, 224)]
    [512, 170, 64]
    """
    return min(512, max(64, 2**21 // max(math.prod(image_shape), 1)))


def fitted(image: UInt8[Tensor, "channels height width"], size: int) -> UInt8[Tensor, "channels size size"]:
    """The center square of an image, resized to ``size`` × ``size`` pixels with antialiasing.

    >>> import torch
    >>> from exml.core.samples import fitted
    >>> fitted(torch.full((1, 6, 8), 7, dtype=torch.uint8), 3).tolist()
    [[[7, 7, 7], [7, 7, 7], [7, 7, 7]]]
    """
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[:, top : top + side, left : left + side]
    if side == size:
        return square
    resized = torch.nn.functional.interpolate(square[None].float(), (size, size), mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


@runtime_checkable
class LabelledDataset(Protocol):
    """A dataset as in torchvision, with pairs of an image and its class id."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@attrs.frozen(eq=False)
class Samples:
    """Images with their labels and origin; immutable. Shapes or types that do not match raise a ShapeError.

    Args:
        images: ``(n, channels, height, width)``, floating in pixel units, or uint8, where 255 is 1.0 in pixel units.
        labels: ``(n,)`` int64, global class ids.
        tasks: ``(n,)`` int64, task labels; -1 without a task.
        experiences: ``(n,)`` int64, from 1; 0 if unknown.
        targets: ``(n, k)``, optional soft targets: probabilities of the global class ids 0 to k - 1.
        logits: ``(n, classes)``, optional stored targets of the student (``Training.stored``).

    >>> import torch
    >>> from exml import Samples
    >>> samples = Samples.of(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), task=2)
    >>> len(samples), samples.tasks.tolist()
    (4, [2, 2, 2, 2])
    >>> samples[samples.labels == 1]
    Samples(2 images 1x8x8, classes 1, cpu)
    """

    images: StoredImages
    labels: Labels
    tasks: Labels
    experiences: Labels
    targets: Float[Tensor, "batch targets"] | None = None
    logits: Float[Tensor, "batch classes"] | None = None

    def __attrs_post_init__(self) -> None:
        stored = self.images.is_floating_point() or self.images.dtype == torch.uint8
        remedy = "add the missing dimension, or convert values from 0 to 255 with images.to(torch.uint8)"
        expected = "floating or uint8 images (n, channels, height, width)"
        _require(stored and self.images.ndim == 4, expected, self.images, remedy)
        count = len(self.images)
        for name, row in (("labels", self.labels), ("tasks", self.tasks), ("experiences", self.experiences)):
            fits = row.shape == (count,) and row.dtype == torch.int64
            _require(fits, f"{name} ({count},) int64", row, f"give {name} one entry per image")
        for name, rows in (("targets", self.targets), ("logits", self.logits)):
            if rows is not None:
                fits = rows.ndim == 2 and len(rows) == count
                _require(fits, f"{name} ({count}, classes)", rows, f"give one row of {name} per image")

    @classmethod
    def of(
        cls,
        images: StoredImages,
        labels: Labels,
        *,
        task: int | None = None,
        experience: int = 0,
        targets: Float[Tensor, "batch targets"] | None = None,
    ) -> Samples:
        """Samples of one task and one experience."""
        tasks = torch.full_like(labels, -1 if task is None else task)
        return cls(images, labels, tasks, torch.full_like(labels, experience), targets)

    @classmethod
    def from_dataset(cls, dataset: LabelledDataset, size: int | None = None) -> Samples:
        """All images of a dataset as in torchvision, with their class ids, as uint8.

        Args:
            dataset: pairs of an image and its class id. An image is a Pillow image, an array ``(height, width)`` or
                ``(height, width, channels)`` uint8, or a tensor ``(channels, height, width)``, uint8 or from 0 to 1.
            size: height and width of the result, the resized center square of each image; without it, all images must
                have one shape.

        >>> import torch
        >>> from exml import Samples
        >>> digits = [(torch.full((1, 4, 4), 0.2), 7), (torch.full((1, 4, 4), 1.0), 3)]
        >>> samples = Samples.from_dataset(digits)
        >>> samples, samples.images[:, 0, 0, 0].tolist()
        (Samples(2 images 1x4x4, classes 3, 7, cpu), [51, 255])
        """
        images: list[Tensor] = []
        labels: list[int] = []
        for index in range(len(dataset)):
            image, label = dataset[index]
            images.append(_as_bytes(image, index, size))
            labels.append(int(label))
        _require_one_shape(images, "images of one shape", "give a size")
        return cls.of(torch.stack(images), torch.tensor(labels))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Samples:
        """The samples selected by a mask, indices or a slice."""
        return self._map(lambda column: _rows(column, index))

    def pixels(self, index: Tensor | slice | None = None) -> Images:
        """All images, or those selected by a mask, indices or a slice, floating in pixel units.

        Only uint8 images, a mask and indices need a copy.

        >>> import torch
        >>> from exml import Samples
        >>> images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1)
        >>> Samples.of(images, torch.tensor([0, 1, 2])).pixels(slice(1, 3)).flatten()
        tensor([1.0000, 0.2000])
        """
        return to_pixels(self.images if index is None else _rows(self.images, index))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        classes = ", ".join(map(str, self.labels.unique().tolist()))
        return f"Samples({len(self)} images {shape}, classes {classes}, {self.images.device})"

    def _repr_html_(self) -> str:
        """Thumbnails of up to 24 evenly spaced images, for notebooks; values are clamped to [0, 1]."""
        places = torch.linspace(0, max(len(self) - 1, 0), min(len(self), 24)).long().to(self.images.device)
        pages = (255 * self.pixels(places).detach().float().cpu().clamp(0, 1)).round().byte()
        pages = pages if pages.shape[1] == 3 else pages[:, :1].expand(-1, 3, -1, -1)
        labels = self.labels[places].tolist()
        rows = zip(pages.permute(0, 2, 3, 1).numpy(), labels, strict=True)
        return f"<div>{escaped(self)}<br>{''.join(thumbnail(page, f'class {label}') for page, label in rows)}</div>"

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def of_experience(self, experience: int) -> Samples:
        """The same samples, marked with one experience."""
        return attrs.evolve(self, experiences=torch.full_like(self.labels, experience))

    def state(self) -> State:
        """Tensors by name, for a checkpoint."""
        return {name: tensor for name, tensor in attrs.asdict(self, recurse=False).items() if tensor is not None}

    @classmethod
    def from_state(cls, state: State, /) -> Samples:
        """The inverse of :meth:`state`."""
        return cls(**state)

    @staticmethod
    def concat(parts: Sequence[Samples], /) -> Samples:
        """Concatenate one or more parts of one image shape; images stay uint8 only if all are.

        Targets and logits are padded with zeros to the widest, and dropped unless all parts have them.
        """
        _require_one_shape([part.images for part in parts], "samples of one image shape", "resize them to one shape")
        stored = all(part.images.dtype == torch.uint8 for part in parts)
        images = torch.cat([part.images if stored else part.pixels() for part in parts])
        rows = zip(*((part.labels, part.tasks, part.experiences) for part in parts), strict=True)
        labels, tasks, experiences = map(torch.cat, rows)
        targets, logits = (_padded([getattr(part, name) for part in parts]) for name in ("targets", "logits"))
        return Samples(images, labels, tasks, experiences, targets, logits)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Samples:
        return Samples.from_state({name: change(tensor) for name, tensor in self.state().items()})


def _padded(parts: Sequence[Tensor | None]) -> Tensor | None:
    columns = [part for part in parts if part is not None]
    if len(columns) < len(parts):
        return None
    width = max(column.shape[1] for column in columns)
    return torch.cat([torch.nn.functional.pad(column, (0, width - column.shape[1])) for column in columns])


def _rows(column: Tensor, index: Tensor | slice) -> Tensor:
    if isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1:
        return column.index_select(0, index)  # twice as fast for a mini-batch
    return column[index]


def _require(fits: bool, expected: str, got: Tensor, remedy: str) -> None:
    if not fits:
        raise ShapeError(expected=expected, got=f"{tuple(got.shape)} {got.dtype}", remedy=remedy)


def _require_one_shape(images: Sequence[Tensor], expected: str, remedy: str) -> None:
    shapes = {tuple(image.shape[-3:]) for image in images}
    if len(shapes) != 1:
        raise ShapeError(expected=expected, got=str(sorted(shapes)) if shapes else "none", remedy=remedy)


def _as_bytes(image: Any, index: int, size: int | None) -> Tensor:
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if not isinstance(image, Tensor) and tensor.ndim in (2, 3):
        tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if tensor.is_floating_point() and bool(((tensor >= 0) & (tensor <= 1)).all()):
        tensor = (tensor * 255).round().to(torch.uint8)
    expected = f"an image (channels, height, width), uint8 or floating from 0 to 1, at {index}"
    remedy = "use the dataset without a transform that normalizes; the experts' mean and std do that"
    _require(tensor.ndim == 3 and tensor.dtype == torch.uint8, expected, tensor, remedy)
    return tensor if size is None else fitted(tensor, size)
