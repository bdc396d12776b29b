"""Photographs of ImageNet (Russakovsky et al. 2015), and what a network has learned from them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file

from exml.core.errors import DataError, SettingError
from exml.core.samples import Samples
from exml.core.shapes import State
from exml.datasets._arrays import read_arrays, require
from exml.datasets.image_folder import image_folder
from exml.datasets.location import cache_folder, dataset_folder

FOLDERS = ("imagenet", "imagenet1000_128")
"""Where photographs are looked for; the first one that is there is taken."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of each channel, in pixel units: by these the pretrained networks normalise."""


def imagenet(size: int, *, limit: int = 50_000, folder: Path | None = None) -> Samples:
    """Photographs, ``(n, 3, size, size)`` uint8; class ids are those of :func:`image_folder`, or all 0.

    Args:
        size: height and width.
        limit: at most so many, evenly over all files.
        folder: holds a folder ``imagenet`` or ``imagenet1000_128`` of JPEG files, in folders of classes or without
            any; and for 32 pixels, before these, ``tiny_imagenet32.npz`` with ``x`` ``(n, 32, 32, 3)`` uint8. By
            default :func:`dataset_folder`.

    Raises:
        DataError: when there is none of them, or naming the file that is broken.
        SettingError: for a size or a limit below 1.
        CheckpointError: when the cache of :func:`image_folder` cannot be written.
    """
    folder = dataset_folder() if folder is None else folder
    small = folder / "tiny_imagenet32.npz"
    if size == 32 and small.exists():
        return _of_arrays(small)[:limit]
    for name in FOLDERS:
        if (folder / name).is_dir():
            return image_folder(folder / name, size, limit=limit)
    raise DataError(
        expected=f"photographs of ImageNet in {folder / FOLDERS[0]}",
        got="no such folder",
        remedy="put or link a copy there (any folder of JPEG files will do), or name another folder in EXML_DATA",
    )


def _of_arrays(path: Path) -> Samples:
    remedy = "get the file again, or remove it"
    [images] = read_arrays(path, ("x",), remedy)
    fits = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3)
    require(fits, path, "x (n, 32, 32, 3) uint8", f"{images.shape} {images.dtype}", remedy)
    pixels = rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous()
    return Samples.of(pixels, torch.zeros(len(pixels), dtype=torch.int64))


def imagenet_weights(architecture: str) -> State:
    """What a network learned from ImageNet: torchvision's weights ``IMAGENET1K_V1``, all but the head's.

    Args:
        architecture: a name in :mod:`exml.models`; there are weights for ``mobilenet-v2``.

    Returns:
        State: tensors by name, from ``mobilenet_v2_imagenet1k_v1.safetensors`` in :func:`dataset_folder`; else from the
        user's cache, which they are downloaded to, once.

    Raises:
        SettingError: when there are none for this architecture.
        DataError: when they are not there and cannot be downloaded, or the file is broken.
    """
    if architecture != "mobilenet-v2":
        raise SettingError(
            expected="mobilenet-v2, for which there are pretrained weights",
            got=repr(architecture),
            remedy="begin with random weights, or with this architecture",
        )
    return _mobilenet_v2(dataset_folder() / "mobilenet_v2_imagenet1k_v1.safetensors")


@lru_cache(maxsize=1)
def _mobilenet_v2(path: Path) -> State:
    try:
        state: dict[str, Any] = load_file(path) if path.exists() else _download()
        return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    except (OSError, RuntimeError, URLError, SafetensorError) as error:
        raise DataError(
            expected=f"the weights of MobileNetV2 for ImageNet in {path}",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="be online once to download them, or name a folder that holds them in EXML_DATA",
        ) from error


def _download() -> dict[str, Any]:
    from torchvision.models import MobileNet_V2_Weights  # here, since torchvision is slow to import

    url = MobileNet_V2_Weights.IMAGENET1K_V1.url
    place = str(cache_folder() / "weights")
    return torch.hub.load_state_dict_from_url(
        url, place, map_location="cpu", progress=False, check_hash=True, weights_only=True
    )
