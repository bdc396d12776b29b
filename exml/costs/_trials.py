"""The hot loops of a strategy on copies of its models, to count and time them by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Scalar
from exml.engine import DistillationContext, PreviousStudent, Teachers, distill
from exml.learning.preflight import check_student
from exml.learning.strategy import Strategy
from exml.protocols import GenerationContext, Generator


class Enough(Exception):  # noqa: N818  (no error: the way out of a loop)
    """Raised in a loop whose further steps are not needed."""


@attrs.frozen(eq=False)
class Trials:
    """A strategy, an expert and a student, the models as copies on a device.

    Args:
        strategy: whose loops.
        expert: its module a copy.
        student: a copy.
        classes: the student's outputs.
        execution: of the loops.
    """

    strategy: Strategy
    expert: Expert
    student: nn.Module
    classes: int
    execution: Execution

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        expert: Expert,
        student: nn.Module,
        device: torch.device | str,
        execution: Execution = EAGER,
    ) -> Trials:
        """Copy the models; raises what a :class:`exml.Learner` does of models that do not fit."""
        asked = attrs.evolve(expert, module=copy.deepcopy(expert.module).to(device))
        pupil = copy.deepcopy(student).to(device)
        classes = check_student(pupil, asked)
        asked.check(classes)
        return cls(strategy, asked, pupil, classes, execution)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.expert.device

    def samples(self, count: int) -> Samples:
        """White noise in the shape of the expert's images, with its classes in turn."""
        images = torch.rand(count, *self.expert.image_shape, device=self.device)
        labels = self.expert.class_ids.to(self.device)[
            torch.arange(count, device=self.device) % len(self.expert.classes)
        ]
        return Samples.of(images, labels, task=self.expert.task, experience=1)

    def generate(self, generator: Generator, count: int) -> Samples:
        """Ask a generator for images as a learner does, with a few earlier ones in the buffer."""
        strategy = self.strategy
        context = GenerationContext(
            strategy.prior, strategy.augmentation, memory=self.samples(8), execution=self.execution
        )
        return generator(self.expert, count, 0, context)

    def distil(
        self,
        memory: Samples,
        steps: int,
        *,
        batch: int,
        views: int,
        previous: bool,
        after_step: Callable[[int, Scalar], None] | None = None,
    ) -> None:
        """Some steps of distillation into the copy of the student.

        Args:
            memory: the buffer.
            steps: how many; fewer if ``after_step`` raises :class:`Enough`.
            batch: samples in a step.
            views: of every image in the bank.
            previous: whether there is a previous student to ask.
            after_step: called after each step, with the number of steps made and the loss.
        """
        strategy = self.strategy
        training = attrs.evolve(strategy.training, iterations=steps, batch_size=batch, views=views)
        earlier = None
        if previous:
            known = self._not_the_experts()
            module = copy.deepcopy(self.student).eval().requires_grad_(False)
            earlier = PreviousStudent(module, known, known)
        try:
            distill(
                self.student,
                Teachers(earlier, self.expert, strategy.normalizer, strategy.combiner, self.classes),
                memory,
                loss=strategy.loss,
                training=training,
                augmentation=strategy.augmentation,
                context=DistillationContext(0, after_step=after_step or _pass, execution=self.execution),
            )
        except Enough:
            return

    def _not_the_experts(self) -> ClassMask:
        """The classes that the expert does not know; all, if it knows all."""
        mask: Any = torch.ones(self.classes, dtype=torch.bool, device=self.device)
        if len(self.expert.classes) < self.classes:
            mask[list(self.expert.classes)] = False
        return mask


def _pass(_done: int, _loss: Scalar) -> None:
    """Nothing to do after a step."""
