"""How improbable the student finds the label."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch.nn import functional

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import one_of


@component
@attrs.frozen
class CrossEntropy:
    """``-log softmax(y_curr)[y_syn]``, averaged over the batch (the second term of Eq. 10).

    Args:
        classes: the softmax runs over the candidates of an image (``"seen"``) or over every class (``"all"``). A label
            always counts as a candidate of its own image, also where the target leaves it out, so that the loss is
            finite.
        labels: those that the images were ``"given"`` by their generator, or the argmax of the ``"target"``, as the
            paper's code has it for images that nobody made for a class.

    >>> import torch
    >>> everything = torch.ones(1, 3, dtype=torch.bool)
    >>> target = Target(torch.zeros(1, 3), everything, torch.tensor([[True, True, False]]))
    >>> CrossEntropy()(torch.zeros(1, 3), target, torch.tensor([0])).exp()
    tensor(2.)
    >>> CrossEntropy("all")(torch.zeros(1, 3), target, torch.tensor([0])).exp()
    tensor(3.)
    """

    classes: Literal["seen", "all"] = attrs.field(default="seen", validator=one_of("seen", "all"))
    labels: Literal["given", "target"] = attrs.field(default="given", validator=one_of("given", "target"))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch."""
        if self.labels == "target":
            compared = target.defined if self.classes == "seen" else torch.ones_like(target.defined)
            labels = target.logits.masked_fill(~compared, -float("inf")).argmax(1)
        if self.classes == "seen":
            candidates = target.candidates.scatter(1, labels[:, None], True)
            logits = logits.masked_fill(~candidates, -float("inf"))
        return functional.cross_entropy(logits, labels)
