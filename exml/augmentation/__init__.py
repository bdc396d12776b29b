"""Augmentation (Sec. 4.1): random, differentiable transformations of images that preserve their class.

It imports only rooms below: :mod:`exml.core` and :mod:`exml.protocols`.
"""

from exml.augmentation.augmentation import Augmentation
from exml.augmentation.chain import Chain
from exml.augmentation.kornia import Kornia

__all__ = ["Augmentation", "Chain", "Kornia"]
