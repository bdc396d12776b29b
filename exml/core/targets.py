"""The logits of teachers, and the target made from them: the data between combiner and loss."""

from __future__ import annotations

from operator import attrgetter

import attrs
import torch

from exml.core.shapes import ClassCounts, ClassMask, EntryMask, Logits


@attrs.frozen(eq=False)
class TeacherLogits:
    """The logits of one teacher, one column per class of the student.

    Args:
        logits: ``(batch, classes)``; 0 in columns for which the teacher has no output unit.
        known: ``(classes,)``, the classes that the teacher was trained on.
        present: ``(classes,)``, the classes for which it has an output unit; includes ``known``.
        taught: ``(classes,)``, how many experts taught it each class; by default one for each of ``known``.

    >>> TeacherLogits.none(torch.zeros(2, 3)).known.tolist()
    [False, False, False]
    """

    logits: Logits
    known: ClassMask
    present: ClassMask
    taught: ClassCounts = attrs.field(default=attrs.Factory(attrgetter("known"), takes_self=True))

    @staticmethod
    def none(like: Logits, /) -> TeacherLogits:
        """A teacher that knows no class: the previous student in the first experience."""
        nothing = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
        return TeacherLogits(torch.zeros_like(like), nothing, nothing)


@attrs.frozen(eq=False)
class Target:
    """The logits that the student learns to predict.

    Args:
        logits: ``(batch, classes)``; 0 where not ``defined``.
        defined: ``(batch, classes)``, where a teacher gave a value.
        candidates: ``(batch, classes)``, all classes seen so far, or those of the image's task.
    """

    logits: Logits
    defined: EntryMask
    candidates: EntryMask
