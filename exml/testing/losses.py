"""Conformance of normalizers, combiners and losses."""

from __future__ import annotations

import torch

from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Labels
from exml.core.targets import Target, TeacherLogits
from exml.protocols import Combiner, Loss, Normalizer
from exml.testing.component import check_component, require

_CLASSES = 6


def _mask(*classes: int) -> ClassMask:
    mask = torch.zeros(_CLASSES, dtype=torch.bool)
    mask[list(classes)] = True
    return mask


def _logits(rows: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(rows, _CLASSES, generator=torch.Generator().manual_seed(seed))


def check_normalizer(normalizer: Normalizer) -> None:
    """A normalizer is a component; it works row by row, looks at known classes only, and keeps their order.

    Args:
        normalizer: the one to check.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.normalizers import StandardizeLogits
    >>> check_normalizer(StandardizeLogits())
    """
    check_component(normalizer, "normalizer")
    logits, known = _logits(5, 0), _mask(0, 2, 3)
    out = normalizer(logits, known)
    require(out.shape == logits.shape, "must keep the shape of the logits", normalizer)
    require(bool(out.isfinite().all()), "must give finite logits", normalizer)
    rows = torch.cat([normalizer(row[None], known) for row in logits])
    require(torch.allclose(out, rows, atol=1e-5), "must treat each row by itself", normalizer)
    order = torch.equal(out[:, known].argsort(1), logits[:, known].argsort(1))
    require(order, "must keep the order of the known classes", normalizer)
    disturbed = torch.where(known, logits, logits + 100)
    unmoved = torch.allclose(normalizer(disturbed, known)[:, known], out[:, known], atol=1e-5)
    require(unmoved, "must take its statistics over the known classes only", normalizer)
    for edge in (torch.zeros_like(logits), logits[:1] * 0 + 7):
        finite = bool(normalizer(edge, known).isfinite().all())
        require(finite, "must give finite logits where all known ones are equal", normalizer)


def check_combiner(combiner: Combiner, *, tasks: bool = False) -> None:
    """A combiner is a component; its target is defined where a teacher spoke, and the label is a candidate.

    It is asked about the classes 0 to 3, seen before, and 3 to 4 of the expert, and about a first experience.

    Args:
        combiner: the one to check.
        tasks: whether it needs task labels; then task 0 has the classes 0 to 2 and task 1 the classes 3 and 4.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.combiners import ByClass
    >>> check_combiner(ByClass())
    """
    check_component(combiner, "combiner")
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    old = (0, 1, 2) if tasks else (0, 1, 2, 3)
    previous = TeacherLogits(_logits(6, 1) * _mask(*old), _mask(*old), _mask(*old))
    expert = TeacherLogits(_logits(6, 2) * _mask(3, 4), _mask(3, 4), _mask(3, 4))
    _check_target(combiner, combiner(previous, expert, _samples(labels)), labels, _mask(0, 1, 2, 3, 4))
    labels = torch.tensor([3, 4, 3, 4, 3, 4])
    _check_target(combiner, combiner(TeacherLogits.none(expert.logits), expert, _samples(labels)), labels, _mask(3, 4))


def _samples(labels: Labels) -> Samples:
    tasks = (labels > 2).long()
    return Samples(torch.zeros(len(labels), 1, 2, 2), labels, tasks, tasks + 1)


def _check_target(combiner: Combiner, target: Target, labels: Labels, seen: ClassMask) -> None:
    shape = (len(labels), _CLASSES)
    for name in ("logits", "defined", "candidates"):
        require(getattr(target, name).shape == shape, f"must give {name} (batch, classes)", combiner)
    require(bool(target.logits.isfinite().all()), "must give finite targets", combiner)
    require(not bool(target.logits[~target.defined].any()), "must leave undefined targets 0", combiner)
    require(bool(target.defined.any(1).all()), "must define a target for every image", combiner)
    require(not bool((target.candidates & ~seen).any()), "must name no class a candidate that nobody knows", combiner)
    mine = target.candidates.gather(1, labels[:, None])
    require(bool(mine.all()), "must name the label of each image among its candidates", combiner)


def check_loss(loss: Loss) -> None:
    """A loss is a component; it is a finite scalar, the mean over the batch, with a gradient that points downhill.

    Args:
        loss: the one to check.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.losses import Distillation
    >>> check_loss(Distillation(cross_entropy=1.0))
    """
    check_component(loss, "loss")
    logits = _logits(4, 3).requires_grad_()
    seen = _mask(0, 1, 2, 3).expand(4, -1)
    target, labels = Target(_logits(4, 4) * seen, seen, seen), torch.tensor([0, 1, 2, 3])
    value = loss(logits, target, labels)
    require(value.shape == () and bool(value.isfinite()), "must be a finite 0-dimensional loss", loss)
    double = Target(target.logits.repeat(2, 1), seen.repeat(2, 1), seen.repeat(2, 1))
    twice = loss(logits.repeat(2, 1), double, labels.repeat(2))
    require(torch.allclose(value, twice, rtol=1e-4), "must average over the batch", loss)
    (gradient,) = torch.autograd.grad(value, logits)
    require(bool(gradient.isfinite().all()), "must have a finite gradient to the logits", loss)
    lower = loss(logits - 1e-3 * gradient / gradient.norm().clamp_min(1e-12), target, labels)
    require(bool(lower <= value), "must fall along its own gradient", loss)
