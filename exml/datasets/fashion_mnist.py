"""Fashion-MNIST: 70,000 grey pictures of clothes in the layout of MNIST (Xiao et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from exml.core.samples import Samples
from exml.datasets.location import dataset_folder
from exml.datasets.mnist import VALIDATION, grey_parts


def fashion_mnist(folder: Path | None = None) -> Mapping[str, Samples]:
    """The parts ``train`` (55,000 images), ``validation`` (5,000) and ``test`` (10,000), 1x28x28 uint8.

    Args:
        folder: holds ``FashionMNIST/raw``, as torchvision lays it out; :func:`dataset_folder` by default.

    Raises:
        DataError: as :func:`mnist`.
    """
    return _parts(dataset_folder() if folder is None else folder)


@lru_cache(maxsize=1)
def _parts(folder: Path) -> Mapping[str, Samples]:
    from torchvision.datasets import FashionMNIST  # here, as in the module of MNIST

    return grey_parts(FashionMNIST, folder, "FashionMNIST", "fashion-mnist", VALIDATION)
