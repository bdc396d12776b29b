"""What every generator does alike: check, label, spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from exml.core.errors import BufferSizeError, DataError, ShapeError
from exml.core.expert import Expert
from exml.core.samples import StoredImages, inference_batch_size
from exml.core.shapes import Images, Labels
from exml.engine import frozen


def check_size(size: int) -> None:
    """Raise :class:`exml.core.errors.BufferSizeError` unless there is something to generate."""
    if size < 1:
        raise BufferSizeError(
            expected="at least 1 sample to generate",
            got=str(size),
            remedy="ask for more, or give the buffer a larger size",
        )


def check_images(images: StoredImages, expert: Expert, whose: str) -> None:
    """Raise unless there are images, and the expert takes such.

    Raises:
        DataError: when there is none.
        ShapeError: when they have another shape.
    """
    if not len(images):
        raise DataError(expected=f"images from {whose}", got="none", remedy="give it at least one image")
    if tuple(images.shape[1:]) != expert.image_shape:
        wanted, got = ("x".join(map(str, shape)) for shape in (expert.image_shape, images.shape[1:]))
        raise ShapeError(
            expected=f"images {wanted}, as expert {expert.name!r} takes",
            got=f"{got} from {whose}",
            remedy="resize or convert them to that shape (channels x height x width)",
        )


@torch.no_grad()
def label(expert: Expert, images: Images) -> Labels:
    """The expert's own predictions for images in pixel units, in mini-batches, in evaluation mode."""
    with frozen(expert.module):
        return torch.cat([expert.labels(part) for part in images.split(inference_batch_size(images.shape[1:]))])


def balanced(size: int, classes: int, device: torch.device) -> Labels:
    """Positions 0 to ``classes - 1`` in turn, so that every slice is as balanced as can be."""
    return torch.arange(size, device=device) % classes


def as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    """A converter for fields of a fixed length, which ``tuple`` itself is not to a type checker."""
    return tuple(values)
