"""The logits of teachers, and the target made from them: the data between combiner and loss."""

from __future__ import annotations

from operator import attrgetter

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.shapes import ClassCounts, ClassMask, EntryMask, Labels, Logits


@attrs.frozen(eq=False)
class TeacherLogits:
    """The logits of one teacher, one column per class of the student.

    Args:
        logits: ``(batch, classes)``; 0 in columns for which the teacher has no output unit.
        known: ``(classes,)``, the classes that the teacher was trained on.
        present: ``(classes,)``, the classes for which it has an output unit; includes ``known``.
        taught: ``(classes,)``, how many experts taught it each class; by default one for each of ``known``.

    >>> import torch
    >>> from exml.protocols import TeacherLogits
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


@attrs.frozen(eq=False)
class Reading:
    """What a forward pass of an expert tells about images.

    Args:
        logits: ``(batch, units)``.
        norm: ``(batch, 1)``, the norm of the input of the classifier; 1 if the classifier is not found.
        typicality: ``(batch,)``, ``-log(1 - ‖V a‖² / ‖a‖²)``, where V is an orthonormal basis of the row space of the
            narrowing layer, or of what it has learned, and a is its input; None without such a layer.
        own: ``(k,)``, the units of the expert's classes.

    >>> import torch
    >>> from exml.protocols import Reading
    >>> Reading(torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 1), None, torch.tensor([2, 0])).own_logits
    tensor([[3., 1.]])
    """

    logits: Float[Tensor, "batch units"]
    norm: Float[Tensor, "batch 1"]
    typicality: Float[Tensor, " batch"] | None
    own: Labels

    @property
    def root_norm(self) -> Float[Tensor, "batch 1"]:
        """The square root of the norm; at least 0.001, since an image without any feature has norm 0."""
        return self.norm.clamp_min(1e-6).sqrt()

    @property
    def own_logits(self) -> Float[Tensor, "batch own"]:
        """The logits of the expert's classes, in their order."""
        return self.logits[:, self.own]
