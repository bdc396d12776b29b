"""A source of natural images that needs no download: patches of two photographs."""

from __future__ import annotations

from itertools import pairwise

import attrs
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.shapes import Images, Labels
from exml.core.validators import positive_int
from exml.generators._common import as_tuple

_HEIGHT, _WIDTH = 427, 640
_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of most libraries


@component
@attrs.frozen
class PhotoPatches:
    """Random patches, at several scales, of the two photographs that scikit-learn includes (a temple, a flower).

    Half of the patches are mirrored. The same settings give the same patches for every experience.

    Args:
        image_shape: ``(channels, height, width)`` of a patch; 1 channel is gray, 3 are color; at most 427 x 640.
        count: number of patches.

    >>> images, labels = PhotoPatches((3, 16, 16), count=10)(1)
    >>> images.shape, labels
    (torch.Size([10, 3, 16, 16]), None)
    """

    image_shape: tuple[int, int, int] = attrs.field(default=(1, 8, 8), converter=as_tuple)
    count: int = attrs.field(default=5000, validator=positive_int())
    uses_real_data = False

    @image_shape.validator  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUntypedFunctionDecorator]
    def _check_shape(self, _: object, shape: tuple[int, ...]) -> None:
        fits = len(shape) == 3 and shape[0] in (1, 3) and 1 <= shape[1] <= _HEIGHT and 1 <= shape[2] <= _WIDTH
        if not fits:
            raise SettingError(
                expected=f"image_shape (1 or 3, up to {_HEIGHT}, up to {_WIDTH}) for PhotoPatches",
                got=str(shape),
                remedy="use a smaller patch, or 1 or 3 channels",
            )

    def __call__(self, experience: int, /) -> tuple[Images, Labels | None]:
        """The patches, in pixel units, in random order; no labels."""
        levels = [level for photo in _photos(self.image_shape[0]) for level in _scales(photo, *self.image_shape[1:])]
        draws = make_generator("cpu", 0, "photo-patches")
        ends = [self.count * index // len(levels) for index in range(len(levels) + 1)]
        patches = [
            _cut(level, self.image_shape, end - begin, draws)
            for level, (begin, end) in zip(levels, pairwise(ends), strict=True)
        ]
        images = torch.cat(patches)[torch.randperm(self.count, generator=draws)]
        mirrored = torch.rand(self.count, 1, 1, 1, generator=draws) < 0.5
        return images.flip(3).where(mirrored, images), None


def _photos(channels: int) -> list[Tensor]:
    from sklearn.datasets import load_sample_images  # scikit-learn takes seconds to import

    photos = [
        rearrange(torch.tensor(photo).float() / 255, "height width rgb -> rgb height width")
        for photo in load_sample_images().images
    ]
    if channels == 3:
        return photos
    return [(photo * torch.tensor(_GRAY).view(3, 1, 1)).sum(0, keepdim=True) for photo in photos]


def _scales(photo: Tensor, height: int, width: int) -> list[Tensor]:
    """The photograph at full size, half size, and so on, while there is room for several different patches."""
    levels = [photo]
    while levels[-1].shape[1] >= 3 * height and levels[-1].shape[2] >= 3 * width:
        smaller = [side // 2 for side in levels[-1].shape[1:]]
        levels.append(interpolate(levels[-1][None], smaller, mode="bilinear", antialias=True)[0].clamp(0, 1))
    return levels


def _cut(photo: Tensor, shape: tuple[int, int, int], count: int, draws: torch.Generator) -> Tensor:
    _, height, width = shape
    top = torch.randint(photo.shape[1] - height + 1, (count, 1, 1), generator=draws)
    left = torch.randint(photo.shape[2] - width + 1, (count, 1, 1), generator=draws)
    return photo[:, top + torch.arange(height).view(-1, 1), left + torch.arange(width)].transpose(0, 1)
