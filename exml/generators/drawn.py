"""Generators that draw images instead of optimizing them: noise, buffered, auxiliary and real images."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from exml.core.errors import DataError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples, StoredImages, to_pixels
from exml.core.validators import in_range
from exml.engine.forward import check_images
from exml.engine.inversion import white_noise
from exml.generators._common import check_size, check_source, labeled
from exml.protocols import STANDALONE, GenerationContext, Generator, Source


@component
@attrs.frozen
class GaussianNoise:
    """Independent normal pixels of standard deviation ``std`` >= 0 in normalized units, labeled by the expert.

    >>> import exml, torch
    >>> from exml.generators import GaussianNoise
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> GaussianNoise()(expert, 5, 0).images.shape
    torch.Size([5, 1, 8, 8])
    """

    std: float = attrs.field(default=1.0, validator=in_range(0))
    uses_priors = False
    uses_real_data = False

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; raises :class:`exml.core.errors.BufferSizeError` if it is below 1."""
        check_size(size)
        return labeled(expert, white_noise(expert, size, seed, self.std), context)


@component
@attrs.frozen
class BufferedImages:
    """Images drawn from the buffer M_{i-1} with replacement, labeled by the expert.

    They are useful as the ``start`` of an inversion, which may then need fewer iterations.

    Args:
        first: makes the images of the first experience, which has no buffer; None: :class:`GaussianNoise`.

    >>> import exml, torch
    >>> from exml.generators import BufferedImages
    >>> from exml.protocols import GenerationContext
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> memory = exml.Samples.of(torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.long))
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
        """Make ``size`` samples; raises a ShapeError if the expert does not take the images of the buffer."""
        check_size(size)
        if context.memory is None:
            first = GaussianNoise() if self.first is None else self.first
            return first(expert, size, derive_seed(seed, "first"), context)
        check_images(context.memory.images, expert, "the buffer")
        draws = make_generator(expert.device, seed, "buffered-images")
        rows = torch.randint(len(context.memory), (size,), generator=draws, device=expert.device)
        return labeled(expert, context.memory.to(expert.device).pixels(rows), context)


@component
@attrs.frozen
class AuxiliaryData:
    """Draw images at random from a source, with y_syn = argmax f_i^S(x) over the expert's own classes (Sec. 4).

    >>> import exml, torch
    >>> from exml.generators import AuxiliaryData
    >>> from exml.generators import PhotoPatches
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
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
        """Make ``size`` samples: distinct images, or drawn with replacement if the source has fewer.

        Raises a ShapeError if the expert does not take the images of the source, and a DataError if it has none or if
        their values are far outside of pixel units.
        """
        check_size(size)
        images, _ = self.source(context.experience)
        check_source(images, expert, repr(self.source))
        draws = make_generator("cpu", seed, "auxiliary-data")
        if size <= len(images):
            chosen = torch.randperm(len(images), generator=draws)[:size]
        else:
            chosen = torch.randint(len(images), (size,), generator=draws)
        return labeled(expert, _pixels(images, chosen, expert), context)


@component
@attrs.frozen
class Replay:
    """Draw real labeled images of the expert's classes: Replay ED of Sec. 5, an upper bound and no ex-model strategy.

    ``source`` holds the original data with labels. The draw is as balanced over the classes as the source allows.

    >>> import exml, torch
    >>> from exml.generators import Replay
    >>> from exml.generators import InMemory
    >>> source = InMemory(torch.rand(8, 1, 8, 8), torch.tensor([3, 3, 3, 3, 3, 3, 7, 5]))
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> sorted(Replay(source)(expert, 3, 0).labels.tolist())
    [3, 3, 7]
    """

    source: Source
    uses_priors = False
    uses_real_data = True

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples: distinct images, which repeat if the source has fewer of these classes.

        Raises a ShapeError if the expert does not take the images of the source, and a DataError if the source has no
        labels, no image of the expert's classes, or values far outside of pixel units.
        """
        check_size(size)
        images, labels = self.source(context.experience)
        check_source(images, expert, repr(self.source))
        if labels is None or not bool(torch.isin(labels, expert.class_ids.to(labels.device)).any()):
            raise DataError(
                expected=f"labeled images of the classes {expert.classes} from {self.source!r}",
                got="no labels" if labels is None else "none",
                remedy="give Replay the data that the experts were trained on",
            )
        labels = labels.cpu()
        order = torch.randperm(len(labels), generator=make_generator("cpu", seed, "replay"))
        order = order[torch.isin(labels[order], expert.class_ids)]
        # Sort so that the first image of every class comes first, then the second of every class, and so on.
        counts = labels[order].unique(return_counts=True)[1].tolist()
        turn = torch.empty_like(order)
        turn[labels[order].argsort(stable=True)] = torch.cat([torch.arange(count) for count in counts])
        chosen = order[turn.argsort(stable=True)].repeat(-(-size // len(order)))[:size]
        own = labels[chosen].to(expert.device)
        return Samples.of(_pixels(images, chosen, expert), own, task=expert.task, experience=context.experience)


def _pixels(images: StoredImages, chosen: Tensor, expert: Expert) -> Tensor:
    return to_pixels(images[chosen.to(images.device)].to(expert.device)).float()
