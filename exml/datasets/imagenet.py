"""Photographs of ImageNet (Russakovsky et al. 2015), and weights that were trained on them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from exml.core.errors import DataError, SettingError
from exml.core.samples import Samples
from exml.core.shapes import State
from exml.datasets._common import cache_folder, dataset_folder, from_arrays, one_line, read_arrays
from exml.datasets.image_folder import image_folder

FOLDERS = ("imagenet", "imagenet1000_128")
"""Names of the folder of photographs; the first that exists is used."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The normalization of the pretrained networks, per channel, in pixel units."""


def imagenet(size: int, *, limit: int = 50_000, folder: Path | None = None) -> Samples:
    """Photographs, ``(n, 3, size, size)`` uint8; class ids are those of :func:`image_folder`, or all 0.

    Args:
        size: height and width.
        limit: the maximum number of images, taken evenly from all files.
        folder: holds a folder ``imagenet`` or ``imagenet1000_128`` of JPEG files, with or without a folder per class.
            For 32 pixels, ``tiny_imagenet32.npz`` with ``x`` ``(n, 32, 32, 3)`` uint8 comes first. By default
            :func:`dataset_folder`.

    Raises:
        DataError: without such files, or naming the broken file.
        SettingError: for a size or a limit below 1.
        CheckpointError: when the cache of :func:`image_folder` cannot be written.
    """
    folder = dataset_folder() if folder is None else folder
    small = folder / "tiny_imagenet32.npz"
    if size == 32 and small.exists():
        remedy = "get the file again, or remove it"
        [images] = read_arrays(small, ("x",), remedy)
        return from_arrays(images, np.zeros(images.shape[:1], np.int64), small, remedy)[:limit]
    for name in FOLDERS:
        if (folder / name).is_dir():
            return image_folder(folder / name, size, limit=limit)
    expected = f"photographs of ImageNet in {folder / FOLDERS[0]}"
    remedy = "put or link a copy there (any folder of JPEG files works), or set EXML_DATA to another folder"
    raise DataError(expected=expected, got="no such folder", remedy=remedy)


def imagenet_weights(architecture: str) -> State:
    """Torchvision's weights ``IMAGENET1K_V1`` of a network, except for its head; tensors by name.

    They come from ``mobilenet_v2_imagenet1k_v1.safetensors`` in :func:`dataset_folder`, or else from a download.

    Args:
        architecture: a name in :mod:`exml.models`; only ``mobilenet-v2`` has weights.

    Raises:
        SettingError: for another architecture.
        DataError: when the file is missing and cannot be downloaded, or is broken.
    """
    if architecture != "mobilenet-v2":
        expected = "mobilenet-v2, which has pretrained weights"
        remedy = "start from random weights, or use this architecture"
        raise SettingError(expected=expected, got=repr(architecture), remedy=remedy)
    return _mobilenet_v2(dataset_folder() / "mobilenet_v2_imagenet1k_v1.safetensors")


@lru_cache(maxsize=1)
def _mobilenet_v2(path: Path) -> State:
    try:
        state: dict[str, Any] = load_file(path) if path.exists() else _download(cache_folder() / "weights")
        return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    except (OSError, RuntimeError, URLError, SafetensorError) as error:
        expected = f"the weights of MobileNetV2 for ImageNet in {path}"
        remedy = "download them once, online, or set EXML_DATA to a folder that holds them"
        raise DataError(expected=expected, got=one_line(error), remedy=remedy) from error


def _download(folder: Path) -> dict[str, Any]:
    from torchvision.models import MobileNet_V2_Weights  # here, because torchvision takes a second to import

    settings: Any = {"map_location": "cpu", "progress": False, "check_hash": True, "weights_only": True}
    return torch.hub.load_state_dict_from_url(MobileNet_V2_Weights.IMAGENET1K_V1.url, str(folder), **settings)
