"""Losses that compare the student's logits with a target or with labels, and combinations of losses."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch.nn import functional

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import in_range, one_of
from exml.protocols import Loss


@component
@attrs.frozen
class MeanSquaredError:
    r"""The squared distance of the logits to the target (Eq. 9), summed over the classes, averaged over the batch.

    .. math:: \lVert y^{curr} - \tilde{y} \rVert_2^2

    Args:
        classes: ``"seen"`` compares candidates for which a teacher gave a value; ``"all"`` compares every class, with 0
            where there is no value, as in the paper's code.
        reduction: over the classes of an image: their ``"sum"``, or ``"mean"``, the sum divided by the number of all
            classes, as in the paper's code and for the learning rates of appendix B.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import MeanSquaredError
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


@component
@attrs.frozen
class CrossEntropy:
    r"""The negative log-likelihood of the labels, averaged over the batch (the second term of Eq. 10).

    .. math:: -\log \, \mathrm{softmax}(y^{curr})_{y^{syn}}

    Args:
        classes: the softmax runs over the candidates of an image and its label (``"seen"``), or over every class
            (``"all"``).
        labels: those ``"given"`` by the generator, or the argmax of the ``"target"``, as in the paper's code for images
            that were not generated for a class.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import CrossEntropy
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


@component
@attrs.frozen
class KLDivergence:
    r"""KL divergence of softened probabilities, averaged over the batch (Hinton et al., arXiv 1503.02531).

    .. math:: T^2 \, \mathrm{KL}(\mathrm{softmax}(\tilde{y} / T) \, \Vert \, \mathrm{softmax}(y^{curr} / T))

    Both softmaxes run over the classes of an image for which a teacher gave a value; an image without any counts as 0.

    Args:
        temperature: T > 0; a larger one gives small probabilities more weight.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import KLDivergence
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 3.0]]), everything, everything)
    >>> KLDivergence()(torch.tensor([[2.0, 4.0]]), target, torch.tensor([0])).abs() < 1e-6
    tensor(True)
    """

    temperature: float = attrs.field(default=2.0, validator=in_range(0, open_low=True))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch; ``labels`` are not read."""
        # Finite, so that 0 times the difference of two logarithms is 0; with infinity it would be NaN.
        lowest = torch.finfo(logits.dtype).min / 2
        student = (logits / self.temperature).masked_fill(~target.defined, lowest).log_softmax(1)
        teacher = (target.logits / self.temperature).masked_fill(~target.defined, lowest).log_softmax(1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence


@component
@attrs.frozen
class Distillation:
    r"""The loss of the paper: :class:`MeanSquaredError` and :class:`CrossEntropy` (Eq. 10).

    .. math:: \mathcal{L}_{MSE} + \lambda \, \mathcal{L}_{CE}

    Args:
        cross_entropy: λ >= 0; 1 in the paper.
        classes: this and the remaining settings are those of :class:`MeanSquaredError` and :class:`CrossEntropy`.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import Distillation
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Distillation()(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(2.6931)
    """

    cross_entropy: float = attrs.field(default=1.0, validator=in_range(0))
    classes: Literal["seen", "all"] = attrs.field(default="seen", validator=one_of("seen", "all"))
    reduction: Literal["sum", "mean"] = attrs.field(default="sum", validator=one_of("sum", "mean"))
    labels: Literal["given", "target"] = attrs.field(default="given", validator=one_of("given", "target"))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch."""
        matching = MeanSquaredError(self.classes, self.reduction)(logits, target, labels)
        return matching + self.cross_entropy * CrossEntropy(self.classes, self.labels)(logits, target, labels)


@component(kind="sum-of-losses")
@attrs.frozen
class Sum:
    """The sum of losses; an empty sum is 0.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import CrossEntropy, MeanSquaredError, Sum
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Sum((MeanSquaredError(), CrossEntropy()))(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(2.6931)
    """

    losses: tuple[Loss, ...] = attrs.field(converter=tuple)

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The sum of their values."""
        return sum((loss(logits, target, labels) for loss in self.losses), start=logits.new_zeros(()))


@component(kind="weighted-loss")
@attrs.frozen
class Weighted:
    """A loss times a weight >= 0.

    >>> import torch
    >>> from exml.protocols import Target
    >>> from exml.losses import MeanSquaredError, Weighted
    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 1.0]]), everything, everything)
    >>> Weighted(MeanSquaredError(), 0.25)(torch.zeros(1, 2), target, torch.tensor([0]))
    tensor(0.5000)
    """

    loss: Loss
    weight: float = attrs.field(validator=in_range(0))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The weighted value."""
        return self.weight * self.loss(logits, target, labels)
