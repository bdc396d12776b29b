"""Both teachers' full-width logits, added up."""

from __future__ import annotations

import attrs
import torch

from exml._registry import component
from exml.losses._pair import seen_by
from exml.samples import Samples
from exml.targets import Target, TeacherLogits


@component
@attrs.frozen
class ProductOfExperts:
    """Add the logits of the previous student and the expert over all units that they have, trained or not.

    The sum of logits is the logarithm of the product of unnormalised probabilities. What the never-trained units of an
    expert say is evidence too: they are low where the image is none of its own. A previous student that knows no class
    yet contributes nothing. Needs experts with a head of the full width; the others abstain on the classes they lack.

    >>> import torch
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, -3.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[-1.0, 2.0]]), torch.tensor([False, True]), both)
    >>> ProductOfExperts()(previous, expert, Samples.of(torch.zeros(1, 1, 2, 2), torch.tensor([0]))).logits
    tensor([[ 0., -1.]])
    """

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The same classes for every sample; labels are not used."""
        use_previous = previous.present & previous.known.any()
        total = torch.where(use_previous, previous.logits, 0) + torch.where(expert.present, expert.logits, 0)
        defined = (use_previous | expert.present).expand_as(total)
        return Target(total, defined, seen_by(previous, expert))
