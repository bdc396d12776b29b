"""The distance of the student's logits from the target's."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import one_of


@component
@attrs.frozen
class MeanSquaredError:
    """``‖y_curr - ỹ‖²`` (Eq. 9), summed over the classes of an image, averaged over the batch.

    Args:
        classes: ``"seen"`` compares candidates for which a teacher gave a value; ``"all"`` compares every class, and
            pulls the student to 0 where there is no value, as the paper's code does.
        reduction: over the classes of an image: their ``"sum"``, as a norm has it, or ``"mean"``, the sum by the number
            of all classes, compared or not, as in the paper's code. The learning rates of appendix B are for the mean.

    >>> target = Target(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]), torch.tensor([[True, True]]))
    >>> student = torch.tensor([[3.0, 5.0]])
    >>> MeanSquaredError()(student, target, torch.tensor([0]))
    tensor(4.)
    >>> MeanSquaredError("all")(student, target, torch.tensor([0]))
    tensor(29.)
    """

    classes: Literal["seen", "all"] = attrs.field(default="seen", validator=one_of("seen", "all"))
    reduction: Literal["sum", "mean"] = attrs.field(default="sum", validator=one_of("sum", "mean"))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch; ``labels`` are not read."""
        difference = logits - target.logits
        if self.classes == "seen":
            difference = torch.where(target.defined & target.candidates, difference, 0)
        distance = difference.square().sum(1).mean()
        return distance if self.reduction == "sum" else distance / logits.shape[1]
