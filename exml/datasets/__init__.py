"""Labeled images by name (Sec. 5): training, validation and test parts, as bytes, always the same.

May import only core.
"""

from exml.datasets.cifar10 import cifar10
from exml.datasets.core50 import core50, core50_lists
from exml.datasets.image_folder import image_folder
from exml.datasets.imagenet import imagenet, imagenet_weights
from exml.datasets.location import dataset_folder
from exml.datasets.mnist import fashion_mnist, mnist
from exml.datasets.parts import hold_out

__all__ = [
    "cifar10",
    "core50",
    "core50_lists",
    "dataset_folder",
    "fashion_mnist",
    "hold_out",
    "image_folder",
    "imagenet",
    "imagenet_weights",
    "mnist",
]
