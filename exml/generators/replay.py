"""Replay: the real data of the experience, to know what generated data could reach at best (Sec. 5)."""

from __future__ import annotations

import attrs
import torch

from exml.core.errors import DataError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples, to_pixels
from exml.generators._common import check_images, check_size
from exml.protocols import STANDALONE, GenerationContext, Source


@component
@attrs.frozen
class Replay:
    """Draw real labelled images of the expert's classes: Replay ED of Sec. 5, an upper bound and no ex-model strategy.

    The draw is as balanced over the classes as the source allows, so that a buffer of one image a class has
    every class.

    Args:
        source: the original data, with labels; images of classes that the expert does not know are passed over.

    >>> from exml.generators import InMemory
    >>> source = InMemory(torch.rand(8, 1, 8, 8), torch.tensor([3, 3, 3, 3, 3, 3, 7, 5]))
    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> sorted(Replay(source)(expert, 3, 0).labels.tolist())
    [3, 3, 7]
    """

    source: Source
    uses_priors = False
    uses_real_data = True

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples: different images, unless the source has fewer of these classes, then it is gone round.

        Raises:
            BufferSizeError: when ``size`` is less than 1.
            ShapeError: when the expert does not take the images of the source.
            DataError: when the source has no labels, or no image of the expert's classes.
        """
        check_size(size)
        images, labels = self.source(context.experience)
        check_images(images, expert, repr(self.source))
        if labels is None or not bool(torch.isin(labels, expert.class_ids.to(labels.device)).any()):
            raise DataError(
                expected=f"labelled images of the classes {expert.classes} from {self.source!r}",
                got="no labels" if labels is None else "none",
                remedy="give Replay the data that the experts were trained on",
            )
        labels = labels.cpu()
        draws = make_generator("cpu", seed, "replay")
        order = torch.randperm(len(labels), generator=draws)
        order = order[torch.isin(labels[order], expert.class_ids)]
        # First one image of every class, then the second of every class, and so on.
        known = labels[order]
        turn = torch.empty_like(order)
        turn[known.argsort(stable=True)] = torch.cat(
            [torch.arange(int(count)) for count in known.unique(return_counts=True)[1]]
        )
        chosen = order[turn.argsort(stable=True)].repeat(-(-size // len(order)))[:size]
        pixels = to_pixels(images[chosen.to(images.device)].to(expert.device)).float()
        return Samples.of(pixels, labels[chosen].to(expert.device), task=expert.task, experience=context.experience)
