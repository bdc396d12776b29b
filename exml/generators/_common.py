"""Helpers that several generators share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from exml.core.errors import BufferSizeError, DataError, ShapeError, warn
from exml.core.expert import Expert
from exml.core.rng import make_generator
from exml.core.samples import Samples, StoredImages
from exml.core.shapes import Labels
from exml.engine.forward import check_images, predicted_labels
from exml.protocols import STANDALONE, GenerationContext

_FARTHEST = 10.0  # no image in pixel units, and no normalized one, has values beyond


def check_size(size: int) -> None:
    if size < 1:
        raise BufferSizeError(
            expected="at least 1 sample to generate", got=str(size), remedy="request more, or enlarge the buffer"
        )


def class_turns(size: int, classes: int, seed: int) -> Labels:
    """The position of each sample's class: in turn, or random classes if there are fewer samples than classes."""
    if size < classes:
        return torch.randperm(classes, generator=make_generator("cpu", seed, "classes"))[:size]
    return torch.arange(size) % classes


def check_source(images: StoredImages, expert: Expert, source: str) -> None:
    """Raise an error if the expert does not take the images of a source, or if their values are no pixels."""
    check_images(images, expert, source)
    if images.is_floating_point():
        low, high = map(float, images.aminmax())
        remedy = "divide pixels from 0 to 255 by 255, and do not normalize them"
        expected, got = f"images in pixel units, from 0 to 1, from {source}", f"values from {low:.3g} to {high:.3g}"
        if not (low >= -_FARTHEST and high <= _FARTHEST):  # true for NaN
            raise DataError(expected=expected, got=got, remedy=remedy)
        if low < -0.5 or high > 1.5:
            warn(expected, got, remedy, stacklevel=3)


def labeled(expert: Expert, images: Tensor, context: GenerationContext = STANDALONE) -> Samples:
    """Samples of float32 images ``(batch, *expert.image_shape)`` in pixel units, labeled by the expert.

    A label is the most probable of the expert's own classes. The expert runs in evaluation mode, so that its batch-norm
    statistics stay as they are; its mode and its gradient flags are restored. The task is that of the expert, the
    experience that of the context. Images of another shape or type raise a :class:`exml.core.errors.ShapeError`.

    >>> import torch
    >>> from exml.generators import labeled
    >>> from exml.testing import tiny_expert
    >>> samples = labeled(tiny_expert(), torch.rand(5, 1, 8, 8))
    >>> samples.images.shape, set(samples.labels.tolist()) <= {1, 4}
    (torch.Size([5, 1, 8, 8]), True)
    """
    if images.shape[1:] != expert.image_shape or images.dtype != torch.float32:
        expected = f"float32 images (batch, {', '.join(map(str, expert.image_shape))}) to label"
        remedies = {torch.float32: "make images of expert.image_shape", torch.uint8: "divide values up to 255 by 255"}
        remedy = remedies.get(images.dtype, "convert them with .float()")
        raise ShapeError(expected=expected, got=f"{tuple(images.shape)} {images.dtype}", remedy=remedy)
    labels = predicted_labels(expert, images)
    return Samples.of(images, labels, task=expert.task, experience=context.experience)


def as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    """A converter for fields of a fixed length, which ``tuple`` itself is not to a type checker."""
    return tuple(values)
