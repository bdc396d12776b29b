"""How many images go through a network together where nothing is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST, _LEAST = 512, 64
_VALUES = 2**21


def at_once(shape: Sequence[int]) -> int:
    """Images of one shape in a forward pass without gradients: 512 small ones, fewer of larger, never below 64.

    Enough to keep a device busy; and activations, which take most of the memory, do not grow with the images.

    >>> at_once((3, 32, 32)), at_once((3, 64, 64)), at_once((3, 224, 224))
    (512, 170, 64)
    """
    return min(_MOST, max(_LEAST, _VALUES // max(math.prod(shape), 1)))
