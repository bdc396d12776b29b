"""Augmentation (Sec. 4.1): random, differentiable transformations of images that preserve their class."""

from exml.augmentation.augmentation import Augmentation
from exml.augmentation.chain import Chain
from exml.augmentation.kornia import Kornia

__all__ = ["Augmentation", "Chain", "Kornia"]
