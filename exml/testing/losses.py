"""Conformance of normalizers, combiners and losses."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from exml.core.outputs import described, is_a
from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Labels
from exml.core.targets import Target, TeacherLogits
from exml.protocols import Combiner, Loss, Normalizer
from exml.testing.component import check_component, found, requirement

_CLASSES = 6


def _mask(*classes: int) -> ClassMask:
    mask = torch.zeros(_CLASSES, dtype=torch.bool)
    mask[list(classes)] = True
    return mask


def _logits(rows: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(rows, _CLASSES, generator=torch.Generator().manual_seed(seed))


def check_normalizer(normalizer: Normalizer) -> None:
    """Check that a normalizer is a component, works row by row over known classes only, and keeps their order.

    >>> from exml.testing import check_normalizer
    >>> from exml.normalizers import StandardizeLogits
    >>> check_normalizer(StandardizeLogits())
    """
    check_component(normalizer, "normalizer")
    must = requirement(normalizer)
    logits, known = _logits(5, 0), _mask(0, 2, 3)
    out = normalizer(logits, known)
    fits = is_a(out, Tensor) and out.shape == logits.shape
    must(fits, "keep the shape of the logits", "return (batch, classes)", found(out))
    must(bool(out.isfinite().all()), "return finite logits", "avoid divisions by 0")
    rows = torch.cat([normalizer(row[None], known) for row in logits])
    must(torch.allclose(out, rows, atol=1e-5), "treat each row by itself", "reduce over dimension 1 only")
    order = torch.equal(out[:, known].argsort(1), logits[:, known].argsort(1))
    must(order, "keep the order of the known classes", "apply an increasing function")
    disturbed = torch.where(known, logits, logits + 100)
    unmoved = torch.allclose(normalizer(disturbed, known)[:, known], out[:, known], atol=1e-5)
    must(unmoved, "use statistics of the known classes only", "mask the others")
    for edge in (torch.zeros_like(logits), logits[:1] * 0 + 7):
        finite = bool(normalizer(edge, known).isfinite().all())
        must(finite, "return finite logits where all known ones are equal", "add an epsilon")


def check_combiner(combiner: Combiner, *, tasks: bool = False) -> None:
    """Check that a combiner is a component, defines a target for every image, and keeps its label a candidate.

    The previous student has the classes 0 to 3 and the expert the classes 3 and 4; a second call is a first experience.
    If the combiner needs task labels (``tasks``), task 0 has the classes 0 to 2 and task 1 the classes 3 and 4.

    >>> from exml.testing import check_combiner
    >>> from exml.combiners import ByClass
    >>> check_combiner(ByClass())
    """
    check_component(combiner, "combiner")
    old, new = _mask(*range(3 if tasks else 4)), _mask(3, 4)
    previous, expert = TeacherLogits(_logits(6, 1) * old, old, old), TeacherLogits(_logits(6, 2) * new, new, new)
    _check_target(combiner, previous, expert, torch.tensor([0, 1, 2, 3, 4, 4]))
    _check_target(combiner, TeacherLogits.none(expert.logits), expert, torch.tensor([3, 4, 3, 4, 3, 4]))


def _check_target(combiner: Combiner, previous: TeacherLogits, expert: TeacherLogits, labels: Labels) -> None:
    seen, tasks = previous.known | expert.known, (labels > 2).long()
    samples = Samples(torch.zeros(len(labels), 1, 2, 2), labels, tasks, tasks + 1)
    inputs = [tensor for teacher in (previous, expert) for tensor in (teacher.logits, teacher.known, teacher.present)]
    before = [tensor.clone() for tensor in inputs]
    target = combiner(previous, expert, samples)
    shape, must = (len(labels), _CLASSES), requirement(combiner)
    must(is_a(target, Target), "return a Target", "return exml.protocols.Target(...)", described(target))
    kept = all(map(torch.equal, inputs, before))
    must(kept, "not change its arguments", "avoid in-place operations, whose names end with _")
    columns = attrs.asdict(target, recurse=False)
    for name, column in columns.items():
        remedy = "keep the shape of the logits, with expand_as for a mask of classes"
        must(is_a(column, Tensor) and column.shape == shape, f"return {name} (batch, classes)", remedy, found(column))
    for name in ("defined", "candidates"):
        kind = getattr(target, name).dtype
        must(kind == torch.bool, f"return {name} as a mask", "compare, or use .bool()", kind)
    must(bool(target.logits.isfinite().all()), "return finite targets", "use logits.masked_fill(~defined, 0)")
    zero = not bool(target.logits[~target.defined].any())
    must(zero, "leave undefined targets 0", "use logits.masked_fill(~defined, 0)")
    must(bool(target.defined.any(1).all()), "define a target for every image", "use the teacher that knows its label")
    unseen = bool((target.candidates & ~seen).any())
    must(not unseen, "list only known classes as candidates", "use the known masks of both teachers")
    mine = target.candidates.gather(1, labels[:, None])
    must(bool(mine.all()), "list the label of each image among its candidates", "include all classes seen so far")
    again = attrs.asdict(combiner(previous, expert, samples), recurse=False)
    same = all(torch.equal(column, again[name]) for name, column in columns.items())
    must(same, "return the same target for the same logits", "do not draw random numbers")
    old, new = (attrs.evolve(teacher, logits=teacher.logits.flip(0)) for teacher in (previous, expert))
    turned = attrs.asdict(combiner(old, new, samples[torch.arange(len(labels)).flip(0)]), recurse=False)
    same = all(torch.allclose(columns[name].float(), turned[name].flip(0).float(), atol=1e-5) for name in columns)
    must(same, "keep the order of the images", "return row i for image i")


def check_loss(loss: Loss) -> None:
    """Check that a loss is a component and a finite mean over the batch, and decreases along its gradient.

    >>> from exml.testing import check_loss
    >>> from exml.losses import Distillation
    >>> check_loss(Distillation(cross_entropy=1.0))
    """
    check_component(loss, "loss")
    must = requirement(loss)
    logits = _logits(4, 3).requires_grad_()
    seen = _mask(0, 1, 2, 3).expand(4, -1)
    target, labels = Target(_logits(4, 4) * seen, seen, seen), torch.tensor([0, 1, 2, 3])
    value = loss(logits, target, labels)
    fits = is_a(value, Tensor) and value.shape == ()
    must(fits, "return a 0-dimensional loss", "reduce over images and classes", found(value))
    must(bool(value.isfinite()), "return a finite loss", "avoid roots and logarithms of 0", float(value.detach()))
    must(value.requires_grad, "have a gradient to the logits", "do not detach them")
    double = Target(target.logits.repeat(2, 1), seen.repeat(2, 1), seen.repeat(2, 1))
    twice = loss(logits.repeat(2, 1), double, labels.repeat(2))
    must(torch.allclose(value, twice, rtol=1e-4), "average over the batch", "use the mean over images")
    (gradient,) = torch.autograd.grad(value, logits)
    must(bool(gradient.isfinite().all()), "have a finite gradient to the logits", "avoid roots and logarithms of 0")
    lower = loss(logits - 1e-3 * gradient / gradient.norm().clamp_min(1e-12), target, labels)
    must(bool(lower <= value), "decrease along its gradient", "check its sign")
