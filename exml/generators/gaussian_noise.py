"""White noise: how useful an expert's outputs are on images without structure."""

from __future__ import annotations

import attrs

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.validators import in_range
from exml.engine.inversion import white_noise
from exml.generators._common import check_size, labeled
from exml.protocols import STANDALONE, GenerationContext


@component
@attrs.frozen
class GaussianNoise:
    """Independent normal pixels, labeled by the expert: the weakest generator, for comparison.

    Args:
        std: standard deviation in the expert's normalized units, >= 0.

    >>> import torch
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
        return labeled(expert, white_noise(expert, size, seed, self.std), context)
