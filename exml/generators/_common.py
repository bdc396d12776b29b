"""Helpers that several generators share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exml.core.errors import BufferSizeError
from exml.core.expert import Expert
from exml.core.samples import Samples
from exml.core.shapes import Images
from exml.engine.forward import predicted_labels
from exml.protocols import GenerationContext


def check_size(size: int) -> None:
    if size < 1:
        raise BufferSizeError(
            expected="at least 1 sample to generate", got=str(size), remedy="request more, or enlarge the buffer"
        )


def labeled(expert: Expert, images: Images, context: GenerationContext) -> Samples:
    """Samples of images in pixel units, with the expert's own predictions as labels."""
    labels = predicted_labels(expert, images)
    return Samples.of(images, labels, task=expert.task, experience=context.experience)


def as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    """A converter for fields of a fixed length, which ``tuple`` itself is not to a type checker."""
    return tuple(values)
