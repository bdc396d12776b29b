"""Procedural images: structure without data and without optimization."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.core.shapes import Images
from exml.core.validators import one_of
from exml.generators._common import as_tuple, check_size, labeled
from exml.generators.procedural import dead_leaves, smooth_noise, strokes
from exml.protocols import STANDALONE, GenerationContext

_KINDS = ("strokes", "dead-leaves", "noise")
_FAINTEST = 0.05
"""A darker image counts as black and is not stretched to white."""


@component
@attrs.frozen
class ProceduralImages:
    """Random drawings, dead leaves and smooth noise in the expert's image shape, labeled by the expert.

    They resemble no class, but have edges, scales and variety, which white noise lacks and inverted images have too
    little of. Matching functions on them is distillation without data (compare Beyer et al., "Knowledge distillation: a
    good teacher is patient and consistent", 2022, and Baradad et al., "Learning to see by looking at noise", 2021). Two
    thirds of the images with several channels are in color.

    Args:
        kinds: the families in turn, of ``"strokes"``, ``"dead-leaves"`` and ``"noise"``; for unequal shares, use a
            :class:`Mixture` of several generators.
        polarity: of strokes: ``"light"`` on a dark ground, ``"dark"`` on a light one, or ``"any"``, half of each.
        full_contrast: whether to scale each image until its brightest value is 1, as in a scan. An expert's outputs
            differ less on faint images, so a student learns less from them.

    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = ProceduralImages(kinds=("strokes",))(expert, 6, 0)
    >>> samples.images.shape, bool((samples.images >= 0).all()), bool((samples.images <= 1).all())
    (torch.Size([6, 1, 8, 8]), True, True)
    """

    kinds: tuple[Literal["strokes", "dead-leaves", "noise"], ...] = attrs.field(default=_KINDS, converter=as_tuple)
    polarity: Literal["light", "dark", "any"] = attrs.field(default="light", validator=one_of("light", "dark", "any"))
    full_contrast: bool = attrs.field(default=False, validator=one_of(True, False))
    uses_priors = False
    uses_real_data = False

    @kinds.validator  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUntypedFunctionDecorator]
    def _check_kinds(self, _: object, kinds: tuple[object, ...]) -> None:
        if not kinds or not set(kinds) <= set(_KINDS):
            raise SettingError(
                expected=f"one or more of {_KINDS} for ProceduralImages.kinds",
                got=repr(kinds),
                remedy="choose one or more of these",
            )

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units; raises :class:`exml.core.errors.BufferSizeError` if it is below 1."""
        check_size(size)
        _, height, width = expert.image_shape
        # About the number of pixels that fit a processor's cache; depends on the image shape alone.
        batch = min(max((1 << 17) // (height * width), 32), 2048)
        images = torch.empty(size, *expert.image_shape, device=expert.device)
        for begin in range(0, size, batch):
            part = images[begin : begin + batch]
            for turn, kind in enumerate(self.kinds):
                places = part[turn :: len(self.kinds)]
                draws = make_generator(expert.device, seed, "procedural-images", begin, turn)
                if len(places):
                    places.copy_(self._draw(kind, len(places), expert.image_shape, draws))
            if self.full_contrast:
                part /= part.amax((1, 2, 3), keepdim=True).clamp_min(_FAINTEST)
            context.journal.record(min(begin + batch, size), size, dict)
        return labeled(expert, images, context)

    def _draw(self, kind: str, count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
        if kind == "strokes":
            return strokes(count, image_shape, draws, self.polarity)
        return (dead_leaves if kind == "dead-leaves" else smooth_noise)(count, image_shape, draws)
