"""Auxiliary data: images of something else, labelled by the expert (Sec. 4)."""

from __future__ import annotations

import attrs
import torch

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples, to_pixels
from exml.generators._common import check_images, check_size, label
from exml.protocols import STANDALONE, GenerationContext, Source


@component
@attrs.frozen
class AuxiliaryData:
    """Draw images at random from a source, with y_syn = argmax f_i^S(x) over the expert's own classes (Sec. 4).

    Args:
        source: where the images are; its labels are not used.

    >>> from exml.generators import PhotoPatches
    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = AuxiliaryData(PhotoPatches())(expert, 6, 0)
    >>> samples.images.shape, set(samples.labels.tolist()) <= {3, 7}
    (torch.Size([6, 1, 8, 8]), True)
    """

    source: Source
    uses_priors = False

    @property
    def uses_real_data(self) -> bool:
        """Whether the source does."""
        return self.source.uses_real_data

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units: different images, unless the source has fewer, then with replacement.

        Raises:
            BufferSizeError: when ``size`` is less than 1.
            ShapeError: when the expert does not take the images of the source.
            DataError: when the source has none.
        """
        check_size(size)
        images, _ = self.source(context.experience)
        check_images(images, expert, repr(self.source))
        draws = make_generator("cpu", seed, "auxiliary-data")
        if size <= len(images):
            chosen = torch.randperm(len(images), generator=draws)[:size]
        else:
            chosen = torch.randint(len(images), (size,), generator=draws)
        pixels = to_pixels(images[chosen.to(images.device)].to(expert.device)).float()
        return Samples.of(pixels, label(expert, pixels), task=expert.task, experience=context.experience)
