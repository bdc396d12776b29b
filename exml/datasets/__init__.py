"""Datasets (Sec. 5): fixed training, validation and test parts of labeled images, as uint8.

May import only core.
"""

from exml.datasets._common import dataset_folder, hold_out
from exml.datasets.core50 import core50, core50_lists
from exml.datasets.image_folder import image_files, image_folder
from exml.datasets.imagenet import imagenet, imagenet_weights
from exml.datasets.torchvision_datasets import cifar10, fashion_mnist, mnist

__all__ = [
    "cifar10",
    "core50",
    "core50_lists",
    "dataset_folder",
    "fashion_mnist",
    "hold_out",
    "image_files",
    "image_folder",
    "imagenet",
    "imagenet_weights",
    "mnist",
]
