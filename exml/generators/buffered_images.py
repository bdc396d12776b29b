"""Warm starts: the images of earlier experiences, to go on from."""

from __future__ import annotations

import attrs
import torch

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples
from exml.generators._common import check_images, check_size, label
from exml.generators.gaussian_noise import GaussianNoise
from exml.protocols import STANDALONE, GenerationContext, Generator


@component
@attrs.frozen
class BufferedImages:
    """Images drawn from the buffer M_{i-1} with replacement, labelled by the expert.

    As the ``start`` of an inversion they are structured already, so that fewer iterations may do.

    Args:
        first: makes the images of the first experience, which has no buffer; None: :class:`GaussianNoise`.

    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> memory = Samples.of(torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.long))
    >>> BufferedImages()(expert, 6, 0, GenerationContext(memory=memory)).images.unique()
    tensor([0.5000])
    """

    first: Generator | None = None
    uses_priors = False

    @property
    def uses_real_data(self) -> bool:
        """Whether ``first`` does."""
        return self.first is not None and self.first.uses_real_data

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units.

        Raises:
            BufferSizeError: when ``size`` is less than 1.
            ShapeError: when the expert does not take the images of the buffer.
        """
        check_size(size)
        if context.memory is None:
            first = GaussianNoise() if self.first is None else self.first
            return first(expert, size, derive_seed(seed, "first"), context)
        check_images(context.memory.images, expert, "the buffer")
        draws = make_generator(expert.device, seed, "buffered-images")
        rows = torch.randint(len(context.memory), (size,), generator=draws, device=expert.device)
        images = context.memory.images.to(expert.device)[rows]
        return Samples.of(images, label(expert, images), task=expert.task, experience=context.experience)
