"""Augmentation (Sec. 4.1): random, class-preserving transformations. Imports only the core and the protocols."""

from exml.augmentation.augmentation import Augmentation
from exml.augmentation.chain import Chain
from exml.augmentation.kornia import Kornia

__all__ = ["Augmentation", "Chain", "Kornia"]
