"""Heads kept apart by tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs
import torch
from jaxtyping import Bool
from torch import Tensor

from exml._registry import component
from exml._types import Combiner
from exml.errors import SettingError, ShapeError
from exml.losses.by_class import ByClass
from exml.samples import Samples
from exml.targets import Target, TeacherLogits


def _nested(value: Any) -> Any:
    return tuple(_nested(part) for part in value) if isinstance(value, list | tuple) else value


def _class_ids(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    tasks = value if isinstance(value, tuple) else ()
    ids = [classes if isinstance(classes, tuple) else () for classes in tasks]
    if not ids or not all(ids) or not all(type(name) is int and name >= 0 for classes in ids for name in classes):
        raise SettingError(
            expected=f"for {type(instance).__name__}.{attribute.name} the class ids (from 0) of every task",
            got=repr(value),
            remedy="list them as ((0, 1), (2, 3))",
        )


@lru_cache(maxsize=32)
def _table(tasks: tuple[tuple[int, ...], ...], classes: int, device: torch.device) -> Bool[Tensor, "tasks classes"]:
    if (largest := max(map(max, tasks))) >= classes:
        raise ShapeError(
            expected=f"class ids below {classes}, the width of the logits",
            got=str(largest),
            remedy="correct the combiner's tasks, or give the student more outputs",
        )
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        table = torch.zeros(len(tasks), classes, dtype=torch.bool)
        for row, ids in zip(table, tasks, strict=True):
            row[list(ids)] = True
        return table.to(device)


@component
@attrs.frozen
class MultiTask:
    """An image concerns only the classes of its own task, as with one head a task (Sec. 5, CIFAR10-MT).

    Both the target and the candidates of another combiner's target are cut down to those classes, so that neither loss
    compares classes of different tasks.

    Args:
        tasks: ``tasks[t]`` has the global class ids of task label t; tasks may share classes.
        combiner: makes the target; with :class:`ByClass` the teacher that knows the label gives it, which for a new
            task is the expert, and for an old one the previous student.

    >>> head = torch.tensor([True, True, False, False])
    >>> previous = TeacherLogits(torch.full((2, 4), 1.0), head, head)
    >>> expert = TeacherLogits(torch.full((2, 4), 5.0), ~head, ~head)
    >>> samples = Samples(torch.zeros(2, 1, 2, 2), torch.tensor([0, 3]), torch.tensor([0, 1]), torch.tensor([1, 2]))
    >>> target = MultiTask(((0, 1), (2, 3)))(previous, expert, samples)
    >>> target.logits
    tensor([[1., 1., 0., 0.],
            [0., 0., 5., 5.]])
    >>> target.candidates.int()
    tensor([[1, 1, 0, 0],
            [0, 0, 1, 1]], dtype=torch.int32)
    """

    tasks: tuple[tuple[int, ...], ...] = attrs.field(converter=_nested, validator=_class_ids)
    combiner: Combiner = attrs.field(factory=ByClass)

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The combiner's target within each sample's task.

        Raises:
            ShapeError: for a sample whose task label is none of ``tasks``, such as -1; on an accelerator this is a
                device assertion, since to look would halt the device at each step.
        """
        target = self.combiner(previous, expert, samples)
        table = _table(self.tasks, target.logits.shape[1], target.logits.device)
        rows = torch.where(samples.tasks < 0, len(self.tasks), samples.tasks)  # -1 would mean the last row
        try:
            own = table[rows]
        except IndexError as error:
            raise ShapeError(
                expected=f"samples with task labels 0 to {len(self.tasks) - 1}",
                got=str(sorted(set(samples.tasks.tolist()))),
                remedy="give every expert its task, or choose a combiner without tasks",
            ) from error
        return Target(torch.where(own, target.logits, 0), target.defined & own, target.candidates & own)
