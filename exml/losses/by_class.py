"""Eq. 8: the label of an image says whose logits are its target."""

from __future__ import annotations

from typing import Literal

import attrs

from exml._registry import component
from exml._validators import one_of
from exml.losses._pair import average
from exml.samples import Samples
from exml.targets import Target, TeacherLogits


@component
@attrs.frozen
class ByClass:
    """The teacher that knows the label of an image gives the target; if both do, their mean (Eq. 8).

    A teacher speaks of its own units only. Where both know the label, the target spans the classes of either: the mean
    where both have a unit, the value of the one that has it elsewhere. As printed, the third case of Eq. 8 repeats
    y^ExM; this is its evident sense, (y^ExM + y^S) / 2. A label that nobody knows leaves its row undefined.

    Args:
        units: of a teacher that is asked, the classes it was trained on (``"known"``) or all it has a unit for
            (``"present"``).

    >>> import torch
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), torch.tensor([False, True]), both)
    >>> target = ByClass()(previous, expert, Samples.of(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])))
    >>> target.logits
    tensor([[1., 0.],
            [0., 4.]])
    >>> target.defined
    tensor([[ True, False],
            [False,  True]])
    """

    units: Literal["known", "present"] = attrs.field(default="known", validator=one_of("known", "present"))

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The target of each sample, by its label."""
        asked = previous.known[samples.labels], expert.known[samples.labels]
        units = (previous.known, expert.known) if self.units == "known" else (previous.present, expert.present)
        return average(previous, expert, asked[0][:, None] & units[0], asked[1][:, None] & units[1])
