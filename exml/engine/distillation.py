"""The distillation loop: Algorithm 1, lines 6 to 12."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import attrs
import torch
from torch import nn

from exml.core.activation import BATCH_NORM
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.ranks import ALONE, Ranks
from exml.core.rng import derive_seed
from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Scalar
from exml.core.targets import Target, TeacherLogits
from exml.engine._batches import fill_bank, fresh
from exml.engine._gradients import backward
from exml.engine._ridge_head import solve_readout
from exml.engine._steps import compile_whole, exchanging, in_form
from exml.engine._synchronized import synchronized
from exml.engine.lowering import lowered
from exml.engine.training import Training
from exml.models import channels_last
from exml.protocols import Augmentation, Combiner, Loss, Normalizer


@attrs.frozen(eq=False)
class PreviousStudent:
    """f_{i-1}^ExM as a teacher.

    Args:
        module: takes images in pixel units; is not trained any more.
        known: ``(classes,)``, the classes that its experts were trained on.
        present: ``(classes,)``, the classes that its experts had an output unit for.
    """

    module: nn.Module
    known: ClassMask
    present: ClassMask


def distill(
    student: nn.Module,
    previous: PreviousStudent | None,
    expert: Expert,
    memory: Samples,
    *,
    normalizer: Normalizer,
    combiner: Combiner,
    loss: Loss,
    training: Training,
    augmentation: Augmentation | None,
    optimizer: torch.optim.Optimizer,
    seed: int,
    start: int,
    classes: int,
    after_step: Callable[[int, Scalar], None],
    execution: Execution = EAGER,
    ranks: Ranks = ALONE,
) -> None:
    """Train the student on the buffer, towards the combined logits of the previous student and the expert.

    Student and teachers see the same augmented images. What a step draws depends on ``seed`` and the step alone, so a
    run that goes on from ``start`` equals one that was never stopped.

    Several ranks share out the images of every mini-batch. Batch norm of the student normalises by the whole mini-batch
    (:class:`torch.nn.SyncBatchNorm` says how), and all ranks make the same step, by the gradient of the whole: the
    student is that of one rank but for rounding, as long as the loss is the mean over its images and no dropout draws.

    Args:
        student: the module to train; left in the modes that it was trained in.
        previous: f_{i-1}, None in the first experience.
        expert: f_i^S, on the student's device.
        memory: M_i, on the student's device.
        normalizer: Eqs. 6 and 7.
        combiner: Eq. 8.
        loss: Eq. 10.
        training: number of steps, batch size and schedule.
        augmentation: of the images of a step, or None.
        optimizer: over the student's parameters.
        seed: of this experience's distillation.
        start: the first step to make, from 0.
        classes: the student's outputs.
        after_step: called with the number of steps made and the loss, detached, after each; a captured step writes
            the next loss over it.
        execution: of the steps; several ranks exchange gradients in each, and execute it operation by operation.
        ranks: all call with the same arguments; at most ``training.batch_size``.
    """
    if start >= training.iterations:
        return
    device, probe = memory.images.device, memory.images[:2]
    draws, shard = torch.Generator(device), ranks.shard(training.batch_size)
    student.train()
    if training.batch_norm == "running":
        for layer in student.modules():
            if isinstance(layer, BATCH_NORM):
                layer.eval()
    with ExitStack() as stack:
        stack.enter_context(channels_last(student, optimizer))
        stack.enter_context(synchronized(student, shard))
        asked = attrs.evolve(expert, module=stack.enter_context(lowered(expert.module, expert.normalize(probe))))
        if previous is not None:
            module = stack.enter_context(lowered(previous.module, probe))
            previous = attrs.evolve(previous, module=module)
        value = memory.images.new_zeros(())

        def ask(previous: PreviousStudent | None, expert: Expert, batch: Samples) -> Target:
            with torch.no_grad(), execution.autocast(device):
                return make_target(previous, expert, batch, normalizer, combiner, classes)

        bank = None
        if training.views or (training.ridge is not None and start == 0):
            ask_once = partial(ask, previous, asked)
            bank = fill_bank(memory, shard, augmentation, ask_once, draws, views=training.views or 1, seed=seed)
            if training.ridge is not None and start == 0:
                for tensor in solve_readout(student, bank.parts(), classes, training.ridge).parameters():
                    ranks.share(tensor.detach())
        drawn = bank.batches(shard, draws) if bank is not None and training.views else None

        def form(pupil: nn.Module, previous: PreviousStudent | None, expert: Expert) -> Callable[[], None]:
            draw = drawn or fresh(memory, shard, augmentation, partial(ask, previous, expert), draws)

            def step() -> None:
                nonlocal value
                images, target, labels = draw()
                with execution.autocast(device):
                    logits = pupil(images)
                value = loss(logits.to(images.dtype), target, labels)
                optimizer.zero_grad(set_to_none=True)
                if ranks.alone:
                    value.backward()
                else:
                    value = backward(value, student, shard)
                if training.clip_norm is not None:
                    nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
                optimizer.step()

            return step

        def compiled() -> Callable[[], None]:
            before = None if previous is None else attrs.evolve(previous, module=compile_whole(previous.module))
            return form(compile_whole(student), before, attrs.evolve(asked, module=compile_whole(asked.module)))

        step = form(student, previous, asked)
        if ranks.alone:
            left = training.iterations - start
            step = in_form(execution, step, compiled, generators=(draws,), steps=left, device=device)
        else:
            exchanging(execution)
        for done in range(start, training.iterations):
            place = derive_seed(seed, done)
            draws.manual_seed(place)
            # Dropout in the student, components that use the global generator: other numbers on other ranks.
            torch.manual_seed(place if ranks.leader else derive_seed(place, "rank", ranks.rank))
            training.set_learning_rate(optimizer, done)
            step()
            after_step(done + 1, value.detach())


def make_target(
    previous: PreviousStudent | None,
    expert: Expert,
    batch: Samples,
    normalizer: Normalizer,
    combiner: Combiner,
    classes: int,
) -> Target:
    """Ask both teachers about the images of a mini-batch and combine their normalised logits (Eqs. 6 to 8)."""
    new = _normalized(expert.teach(batch.images, classes), normalizer)
    if previous is None:
        return combiner(TeacherLogits.none(new.logits), new, batch)
    answers = TeacherLogits(previous.module(batch.images), previous.known, previous.present)
    return combiner(_normalized(answers, normalizer), new, batch)


def _normalized(teacher: TeacherLogits, normalizer: Normalizer) -> TeacherLogits:
    return attrs.evolve(teacher, logits=normalizer(teacher.logits, teacher.known))
