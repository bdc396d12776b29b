"""Augmentation (Sec. 4.1): random, differentiable changes of images that keep their class."""

from exml.augmentation.augmentation import Augmentation
from exml.augmentation.chain import Chain

__all__ = ["Augmentation", "Chain"]
