"""Combiners: make one target from two teachers' normalized logits (Eq. 8)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeAlias

import attrs
import torch
from jaxtyping import Bool
from torch import Tensor

from exml.core.errors import ShapeError
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.shapes import EntryMask
from exml.core.targets import Target, TeacherLogits
from exml.core.validators import field_error, in_range, one_of
from exml.protocols import Combiner

Overlap: TypeAlias = Literal["count", "half"]
"""How two teachers of one class are averaged."""


def _seen_by(previous: TeacherLogits, expert: TeacherLogits) -> EntryMask:
    return (previous.known | expert.known).expand_as(expert.logits)


def _average(
    previous: TeacherLogits, expert: TeacherLogits, use_previous: EntryMask, use_expert: EntryMask, overlap: Overlap
) -> Target:
    """The mean of the values in use, 0 and undefined without one; candidates are all classes seen."""
    old, new = torch.where(use_previous, previous.logits, 0), torch.where(use_expert, expert.logits, 0)
    both = use_previous & use_expert
    if overlap == "count":
        before, now = (teacher.taught.to(new.dtype).clamp_min(1) for teacher in (previous, expert))
        total = torch.where(both, torch.lerp(old, new, now / (before + now)), old + new)
    else:
        total = (old + new) * torch.where(both, 0.5, 1.0).to(new.dtype)
    return Target(total, use_previous | use_expert, _seen_by(previous, expert))


@component
@attrs.frozen
class ByClass:
    """The target is the output of the teacher that knows the label of an image, or the mean of both (Eq. 8).

    If both know the label, the target is the mean of the units that both have, and covers the others unchanged (Eq. 8
    prints y^ExM twice; we read y^ExM and y^S). A label unknown to both leaves its row undefined.

    Args:
        units: of a teacher to use: those of the classes it was trained on (``"known"``), or all (``"present"``).
        overlap: in the mean of both, the previous student counts as many times as experts taught it the class
            (``"count"``), so that each of n experts has the weight 1/n; or the expert has the weight 1/2 (``"half"``,
            the paper).

    >>> import exml, torch
    >>> from exml.combiners import ByClass
    >>> from exml.protocols import TeacherLogits
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), torch.tensor([False, True]), both)
    >>> ByClass()(previous, expert, exml.Samples.of(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]))).logits
    tensor([[1., 0.],
            [0., 4.]])
    """

    units: Literal["known", "present"] = attrs.field(default="known", validator=one_of("known", "present"))
    overlap: Overlap = attrs.field(default="count", validator=one_of("count", "half"))

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The target of each sample, by its label."""
        use_previous, use_expert = (
            teacher.known[samples.labels][:, None] & (teacher.known if self.units == "known" else teacher.present)
            for teacher in (previous, expert)
        )
        return _average(previous, expert, use_previous, use_expert, self.overlap)


def _nested(value: Any) -> Any:
    return tuple(_nested(part) for part in value) if isinstance(value, list | tuple) else value


def _class_ids(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    tasks = value if isinstance(value, tuple) else ()
    ids = [classes if isinstance(classes, tuple) else () for classes in tasks]
    if not ids or not all(ids) or not all(type(name) is int and name >= 0 for classes in ids for name in classes):
        expected = "the class ids (from 0) of every task"
        raise field_error(instance, attribute, value, expected, "list them as ((0, 1), (2, 3))")


@lru_cache(maxsize=32)
def _table(tasks: tuple[tuple[int, ...], ...], classes: int, device: torch.device) -> Bool[Tensor, "tasks classes"]:
    if (largest := max(map(max, tasks))) >= classes:
        raise ShapeError(
            expected=f"class ids below {classes}, the width of the logits",
            got=str(largest),
            remedy="correct the combiner's tasks, or give the student more outputs",
        )
    with torch.inference_mode(False):  # later calls may need gradients
        table = torch.zeros(len(tasks), classes, dtype=torch.bool)
        for row, ids in zip(table, tasks, strict=True):
            row[list(ids)] = True
        return table.to(device)


@component
@attrs.frozen
class MultiTask:
    """Restrict the target and candidates of another combiner to the classes of an image's task (Sec. 5, CIFAR10-MT).

    Args:
        tasks: ``tasks[t]`` are the global class ids of task label t; tasks may share classes.

    >>> import exml, torch
    >>> from exml.combiners import MultiTask
    >>> from exml.protocols import TeacherLogits
    >>> head = torch.tensor([True, True, False, False])
    >>> previous = TeacherLogits(torch.full((2, 4), 1.0), head, head)
    >>> expert = TeacherLogits(torch.full((2, 4), 5.0), ~head, ~head)
    >>> labels, tasks, experiences = torch.tensor([0, 3]), torch.tensor([0, 1]), torch.tensor([1, 2])
    >>> samples = exml.Samples(torch.zeros(2, 1, 2, 2), labels, tasks, experiences)
    >>> MultiTask(((0, 1), (2, 3)))(previous, expert, samples).logits
    tensor([[1., 1., 0., 0.],
            [0., 0., 5., 5.]])
    """

    tasks: tuple[tuple[int, ...], ...] = attrs.field(converter=_nested, validator=_class_ids)
    combiner: Combiner = attrs.field(factory=ByClass)

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The target within each sample's task; raises ShapeError (on an accelerator, an assertion) without a task."""
        target = self.combiner(previous, expert, samples)
        table = _table(self.tasks, target.logits.shape[1], target.logits.device)
        rows = torch.where(samples.tasks < 0, len(self.tasks), samples.tasks)  # -1 would index the last row
        try:
            own = table[rows]
        except IndexError as error:
            raise ShapeError(
                expected=f"samples with task labels 0 to {len(self.tasks) - 1}",
                got=str(sorted(set(samples.tasks.tolist()))),
                remedy="give every expert its task, or choose a combiner without tasks",
            ) from error
        return Target(torch.where(own, target.logits, 0), target.defined & own, target.candidates & own)


@component
@attrs.frozen
class ProductOfExperts:
    """Add the logits of the previous student and the expert over all of their units, trained or not.

    The sum of logits is the logarithm of the product of unnormalized probabilities. A teacher contributes 0 to classes
    without a unit, as does a previous student that knows no class.

    >>> import exml, torch
    >>> from exml.combiners import ProductOfExperts
    >>> from exml.protocols import TeacherLogits
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, -3.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[-1.0, 2.0]]), torch.tensor([False, True]), both)
    >>> ProductOfExperts()(previous, expert, exml.Samples.of(torch.zeros(1, 1, 2, 2), torch.tensor([0]))).logits
    tensor([[ 0., -1.]])
    """

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The same classes for every sample; labels are not read."""
        use_previous = previous.present & previous.known.any()
        total = torch.where(use_previous, previous.logits, 0) + torch.where(expert.present, expert.logits, 0)
        defined = (use_previous | expert.present).expand_as(total)
        return Target(total, defined, _seen_by(previous, expert))


@component
@attrs.frozen
class SideBySide:
    """Concatenate the logits of the previous student and the expert, each over the classes it knows.

    The paper's code does this in place of Eq. 8. Where classes overlap, the target is the mean. Normalize the logits
    first; otherwise the teacher with the larger ones dominates.

    Args:
        calibration: c, from 0 (the paper's code) to 1. The target of class k of the expert is ``y_k - c · mean(y_k)``,
            the mean over the mini-batch of a rank, so that no class of the expert is preferred for every image.
        scale: ``"own"`` (the paper's code), or ``"previous"`` to multiply the calibrated logits of the expert by the
            number that makes their mean square over the mini-batch equal to that of the previous student.
        overlap: how to average where classes overlap; see :class:`ByClass`.

    >>> import exml, torch
    >>> from exml.combiners import SideBySide
    >>> from exml.protocols import TeacherLogits
    >>> both = torch.tensor([True, True])
    >>> previous = TeacherLogits(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]), both)
    >>> expert = TeacherLogits(torch.tensor([[0.0, 2.0]]), torch.tensor([False, True]), both)
    >>> SideBySide()(previous, expert, exml.Samples.of(torch.zeros(1, 1, 2, 2), torch.tensor([0]))).logits
    tensor([[1., 2.]])
    """

    calibration: float = attrs.field(default=0.0, validator=in_range(0, 1))
    scale: Literal["own", "previous"] = attrs.field(default="own", validator=one_of("own", "previous"))
    overlap: Overlap = attrs.field(default="count", validator=one_of("count", "half"))

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The same classes for every sample."""
        if self.calibration:
            preference = expert.logits.mean(0, keepdim=True)
            expert = attrs.evolve(expert, logits=expert.logits - self.calibration * preference)
        if self.scale == "previous":
            expert = attrs.evolve(expert, logits=expert.logits * _ratio(previous, expert))
        use_previous = previous.known.expand_as(previous.logits)
        use_expert = expert.known.expand_as(expert.logits)
        return _average(previous, expert, use_previous, use_expert, self.overlap)


def _ratio(previous: TeacherLogits, expert: TeacherLogits) -> Tensor:
    """The ratio of the root mean squares; 1 if one of them is 0 or without a previous student."""

    def square(teacher: TeacherLogits) -> Tensor:
        known = teacher.known.to(teacher.logits.dtype)
        return (teacher.logits.square() * known).sum() / (known.sum() * len(teacher.logits)).clamp_min(1)

    wanted, present = square(previous), square(expert)
    fits = (wanted > 0) & (present > 0)
    return torch.where(fits, wanted / torch.where(fits, present, 1), 1).sqrt()
