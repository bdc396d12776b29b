"""What teachers say, and what the student shall learn of it: the data between combiner and loss."""

from __future__ import annotations

import attrs
import torch

from exml.core.shapes import ClassMask, EntryMask, Logits


@attrs.frozen(eq=False)
class TeacherLogits:
    """The logits of one teacher, laid out over the student's classes.

    Args:
        logits: ``(batch, classes)``; 0 in columns where the teacher has no output unit.
        known: ``(classes,)``, the classes that the teacher was trained on.
        present: ``(classes,)``, the classes that it has an output unit for, trained or not; includes ``known``.

    >>> nobody = TeacherLogits.none(torch.zeros(2, 3))
    >>> nobody.known.tolist()
    [False, False, False]
    """

    logits: Logits
    known: ClassMask
    present: ClassMask

    @staticmethod
    def none(like: Logits, /) -> TeacherLogits:
        """A teacher that knows nothing: the previous student in the first experience."""
        nothing = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
        return TeacherLogits(torch.zeros_like(like), nothing, nothing)


@attrs.frozen(eq=False)
class Target:
    """What the student shall answer.

    Args:
        logits: ``(batch, classes)``; 0 where not ``defined``.
        defined: ``(batch, classes)``, where a teacher gave a value.
        candidates: ``(batch, classes)``, the classes among which the image's own one lies: all classes seen so far, or
            those of the image's task.
    """

    logits: Logits
    defined: EntryMask
    candidates: EntryMask
