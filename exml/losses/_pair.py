"""What combiners share: two teachers, and which of their values are used."""

from __future__ import annotations

import torch

from exml._types import EntryMask
from exml.targets import Target, TeacherLogits


def seen_by(previous: TeacherLogits, expert: TeacherLogits) -> EntryMask:
    """For each image, the classes that either teacher knows."""
    return (previous.known | expert.known).expand_as(expert.logits)


def average(previous: TeacherLogits, expert: TeacherLogits, use_previous: EntryMask, use_expert: EntryMask) -> Target:
    """The mean of the values in use, 0 and not defined where there is none; candidates are all classes seen."""
    total = torch.where(use_previous, previous.logits, 0) + torch.where(use_expert, expert.logits, 0)
    halves = torch.where(use_previous & use_expert, 0.5, 1.0).to(total.dtype)
    return Target(total * halves, use_previous | use_expert, seen_by(previous, expert))
