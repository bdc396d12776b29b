"""White noise: what the expert's answers are worth on images without any structure."""

from __future__ import annotations

import attrs
import torch

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.core.validators import in_range
from exml.generators._common import check_size, label
from exml.protocols import STANDALONE, GenerationContext


@component
@attrs.frozen
class GaussianNoise:
    """Independent normal pixels, labelled by the expert.

    The weakest source of images, to compare others with, and where inversion starts unless told otherwise.

    Args:
        std: standard deviation in the expert's normalised units, >= 0.

    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> GaussianNoise()(expert, 5, 0).images.shape
    torch.Size([5, 1, 8, 8])
    """

    std: float = attrs.field(default=1.0, validator=in_range(0))
    uses_priors = False
    uses_real_data = False

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units; raises :class:`exml.core.errors.BufferSizeError` if it is below 1."""
        check_size(size)
        draws = make_generator(expert.device, seed, "gaussian-noise")
        noise = torch.randn(size, *expert.image_shape, generator=draws, device=expert.device)
        images = expert.denormalize(self.std * noise)
        return Samples.of(images, label(expert, images), task=expert.task, experience=context.experience)
