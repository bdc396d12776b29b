"""Both teachers' logits in one row, whatever the label."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from exml._registry import component
from exml._validators import in_range, one_of
from exml.losses._pair import average
from exml.samples import Samples
from exml.targets import Target, TeacherLogits


@component
@attrs.frozen
class SideBySide:
    """Write the previous student's and the expert's logits side by side, each over the classes it knows.

    This is what the paper's code does in place of Eq. 8: labels are not used, and where classes overlap the target is
    the mean. Normalise the logits first, or the teacher with the larger ones wins.

    An expert may prefer one of its classes whatever an image shows, and is then given images of others' classes too.
    With a calibration c the target of its class k is ``y_k - c · mean(y_k)``, the mean over the mini-batch; the
    previous student was taught by calibrated targets and stays as it is. (Ranks each take the mean of their part.)

    Experts are also more or less sure of themselves, whoever is right. With ``scale="previous"`` the (calibrated)
    logits of the expert are multiplied by one number, so that over the mini-batch the mean square of its classes is
    that of the previous student's; the first expert sets the scale for all.

    Args:
        calibration: c, from 0, as the paper has it, to 1.
        scale: ``"own"``, as the paper has it, or ``"previous"``.

    >>> import torch
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[0.0, 2.0]]), torch.tensor([False, True]), both)
    >>> SideBySide()(previous, expert, Samples.of(torch.zeros(1, 1, 2, 2), torch.tensor([0]))).logits
    tensor([[1., 2.]])
    """

    calibration: float = attrs.field(default=0.0, validator=in_range(0, 1))
    scale: Literal["own", "previous"] = attrs.field(default="own", validator=one_of("own", "previous"))

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The same classes for every sample."""
        if self.calibration:
            preference = expert.logits.mean(0, keepdim=True)
            expert = attrs.evolve(expert, logits=expert.logits - self.calibration * preference)
        if self.scale == "previous":
            expert = attrs.evolve(expert, logits=expert.logits * _ratio(previous, expert))
        use_previous = previous.known.expand_as(previous.logits)
        return average(previous, expert, use_previous, expert.known.expand_as(expert.logits))


def _ratio(previous: TeacherLogits, expert: TeacherLogits) -> Tensor:
    """Of the root mean squares; 1 where one of them is 0 or there is no previous student."""

    def square(teacher: TeacherLogits) -> Tensor:
        known = teacher.known.to(teacher.logits.dtype)
        return (teacher.logits.square() * known).sum() / (known.sum() * len(teacher.logits)).clamp_min(1)

    wanted, there = square(previous), square(expert)
    fits = (wanted > 0) & (there > 0)
    return torch.where(fits, wanted / torch.where(fits, there, 1), 1).sqrt()
