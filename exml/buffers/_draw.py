"""Uniform subsampling, shared by the policies."""

from __future__ import annotations

import torch

from exml._types import Labels
from exml.errors import BufferSizeError


def subset(length: int, size: int, generator: torch.Generator) -> Labels:
    """``min(size, length)`` distinct indices below ``length``, in ascending order, each set equally probable."""
    drawn = torch.randperm(length, generator=generator, device=generator.device)[:size]
    return drawn.sort().values


def share_of(size: int, experience: int) -> int:
    """⌊N / i⌋, Eq. 5.

    Raises:
        BufferSizeError: when that is nothing.
    """
    if size < experience:
        raise BufferSizeError(
            expected=f"a buffer of at least {experience} samples for experience {experience}",
            got=str(size),
            remedy="give the buffer a larger size, or use exml.buffers.Unbounded",
        )
    return size // experience
