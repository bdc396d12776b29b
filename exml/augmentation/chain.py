"""A sequence of augmentations."""

from __future__ import annotations

import attrs
import torch

from exml.core.registry import component
from exml.core.shapes import Images
from exml.protocols import Augmentation


@component(kind="chain-of-augmentations")
@attrs.frozen
class Chain:
    """Augmentations applied in order, one after the other; an empty chain changes nothing.

    >>> import torch
    >>> from exml.augmentation import Chain
    >>> from exml.augmentation import Augmentation
    >>> chain = Chain((Augmentation(shift=2), Augmentation(brightness=0.2)))
    >>> chain(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 8, 8])
    """

    augmentations: tuple[Augmentation, ...] = attrs.field(converter=tuple)

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Apply them all, drawing from one generator."""
        for augmentation in self.augmentations:
            images = augmentation(images, generator)
        return images
