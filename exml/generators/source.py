"""Where generators that optimise nothing take their images from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from exml.core.samples import StoredImages
from exml.core.shapes import Labels


@runtime_checkable
class Source(Protocol):
    """Images that somebody has: an auxiliary dataset, or the data of an experience.

    A source that belongs to a strategy is a component, so that the strategy serialises.

    >>> from exml.generators import PhotoPatches
    >>> isinstance(PhotoPatches(), Source)
    True
    """

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """All images for experience i (from 1), on the CPU, with global class ids where it has them.

        They are floating in pixel units, or uint8; the generator makes pixels only of those that it draws.
        """
        ...
