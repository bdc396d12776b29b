"""The distillation loop: Algorithm 1, lines 6 to 12."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from operator import attrgetter

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.activation import batch_norm_layers
from exml.core.errors import SettingError
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.outputs import logits_of
from exml.core.ranks import ALONE, Ranks, Shard
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples, inference_batch_size
from exml.core.shapes import ClassCounts, ClassMask, Images, Labels, Scalar
from exml.core.targets import Target, TeacherLogits
from exml.engine._ranks import augment, backward, synchronized
from exml.engine._ridge_head import solve_ridge_head
from exml.engine._steps import Step, compile_whole, exchanging, in_form
from exml.engine.forward import frozen
from exml.engine.hints import Hints
from exml.engine.lowering import lowered
from exml.engine.training import Training
from exml.models import channels_last
from exml.protocols import Augmentation, Combiner, Loss, Normalizer

_RARE = 0.1  # of the mean number of images: smaller classes are not drawn as often as others
_PROBE = 64  # images that estimate the variance of feature maps


@attrs.frozen(eq=False)
class PreviousStudent:
    """f_{i-1}^ExM as a teacher.

    Args:
        module: takes images in pixel units; frozen.
        known: ``(classes,)``, the classes that its experts were trained on.
        present: ``(classes,)``, the classes that its experts had an output unit for.
        taught: ``(classes,)``, how many experts taught each class; by default one for each of ``known``.
    """

    module: nn.Module
    known: ClassMask
    present: ClassMask
    taught: ClassCounts = attrs.field(default=attrs.Factory(attrgetter("known"), takes_self=True))


@attrs.frozen(eq=False)
class Teachers:
    """The two teachers of an experience, and how their logits become one target (Eqs. 6 to 8).

    Args:
        previous: f_{i-1}; None in the first experience.
        expert: f_i^S, on the student's device.
        classes: number of the student's outputs.
        margin: see :class:`Training`.
    """

    previous: PreviousStudent | None
    expert: Expert
    normalizer: Normalizer
    combiner: Combiner
    classes: int
    margin: float = 0.0

    def target(self, batch: Samples) -> Target:
        """Run both teachers on a mini-batch and combine their normalized logits; stored ones replace the previous."""
        new = self._normalized(self.expert.teach(batch.images, self.classes), batch.images.dtype)
        if self.previous is None:
            return self.combiner(TeacherLogits.none(new.logits), new, batch)
        before = self.previous
        logits = logits_of(before.module(batch.images)) if batch.logits is None else batch.logits
        old = TeacherLogits(logits, before.known, before.present, before.taught)
        target = self.combiner(self._normalized(old, batch.images.dtype), new, batch)
        if not self.margin:
            return target
        ours, theirs = before.known[batch.labels, None], new.known[batch.labels, None]
        foreign = (before.known & ~new.known & theirs & ~ours) | (new.known & ~before.known & ours & ~theirs)
        return attrs.evolve(target, logits=target.logits - self.margin * (foreign & target.defined))

    @property
    def known(self) -> ClassMask:
        """``(classes,)``, the classes that at least one of the two knows."""
        own = torch.zeros(self.classes, dtype=torch.bool, device=self.expert.device)
        own[self.expert.class_ids.to(own.device)] = True
        return own if self.previous is None else own | self.previous.known

    def with_modules(self, expert: nn.Module, previous: nn.Module | None) -> Teachers:
        """The same teachers with other forms of their modules."""
        before = self.previous
        if before is not None and previous is not None:
            before = attrs.evolve(before, module=previous)
        return attrs.evolve(self, previous=before, expert=attrs.evolve(self.expert, module=expert))

    def _normalized(self, teacher: TeacherLogits, dtype: torch.dtype) -> TeacherLogits:
        logits = teacher.logits.to(dtype)  # bfloat16 under autocast, from some modules
        return attrs.evolve(teacher, logits=self.normalizer(logits, teacher.known))


@attrs.frozen(eq=False)
class DistillationContext:
    """Where a distillation starts, how its steps run, and what is called after each.

    Args:
        seed: of this experience's distillation.
        optimizer: over the student's parameters, for example a restored one; None creates one.
        start: the first step, from 0.
        after_step: called after each step with the number of completed steps and the detached loss. A captured step
            overwrites the loss in place.
        execution: of the steps. Several ranks exchange gradients in each step and run it eagerly, and so do hints.
        hints: for ``Training.hints``, whose parameters a given optimizer has; without an optimizer, they are created.
        ranks: every rank makes the call with the same arguments; at most ``Training.batch_size``.
    """

    seed: int
    optimizer: torch.optim.Optimizer | None = None
    start: int = 0
    after_step: Callable[[int, Scalar], None] = lambda _done, _loss: None
    execution: Execution = EAGER
    hints: Hints | None = None
    ranks: Ranks = ALONE


def distill(
    student: nn.Module,
    teachers: Teachers,
    memory: Samples,
    *,
    loss: Loss,
    training: Training,
    augmentation: Augmentation | None = None,
    context: DistillationContext,
) -> None:
    """Train the student on the buffer M_i, towards the combined logits of the previous student and the expert.

    Student, teachers and buffer are on one device. Student and teachers see the same augmented images. The draws of a
    step depend on the seed and the step alone, so a resumed run equals an uninterrupted one. The student stays in
    training mode.

    Several ranks share the images of every mini-batch; batch norm normalizes over all of them, as
    :class:`torch.nn.SyncBatchNorm` does. The student matches that of one rank up to rounding, if the loss is a mean
    over images and dropout is off.
    """
    execution, ranks, start = context.execution, context.ranks, context.start
    if start >= training.iterations:
        return
    device, probe = memory.images.device, memory.images[:2]
    hints = context.hints
    if context.optimizer is None:
        hints = hints_for(student, teachers.expert, memory, training, context.seed)
    trained = student if hints is None else nn.ModuleList((student, hints))
    optimizer = training.make_optimizer(trained) if context.optimizer is None else context.optimizer
    draws, shard = torch.Generator(device), ranks.shard(training.batch_size)
    student.train()
    if training.batch_norm == "running":
        for _, layer in batch_norm_layers(student):
            layer.eval()
    with ExitStack() as stack:
        stack.enter_context(channels_last(student, optimizer))
        expert, previous = teachers.expert, teachers.previous
        hinted = None if hints is None else stack.enter_context(hints.watching(student, expert.module))
        lowers = hints is None and not training.stored
        teachers = teachers.with_modules(
            stack.enter_context(lowered(expert.module, expert.normalize(probe))) if lowers else expert.module,
            None if previous is None else stack.enter_context(lowered(previous.module, probe)),
        )
        value = memory.images.new_zeros(())

        def target_of(teachers: Teachers, batch: Samples) -> Target:
            with torch.no_grad(), execution.autocast(device):
                return teachers.target(batch)

        bank = None
        if training.stored:
            bank = _stored_bank(memory, teachers)
        elif training.views or (training.ridge is not None and start == 0):
            views, ready = training.views or 1, partial(target_of, teachers)
            bank = _fill_bank(memory, shard, augmentation, ready, views=views, seed=context.seed)
        if bank is not None and training.ridge is not None and start == 0:
            head = solve_ridge_head(student, bank.parts(), teachers.classes, training.ridge)
            for tensor in head.parameters():
                ranks.share(tensor.detach())
        if not training.views and not training.stored:
            bank = None
        count = len(memory) if bank is None else len(bank.images)
        shares = None if bank is None or training.sampling == "uniform" else bank.balanced().cumsum(0)

        batch_norm = synchronized(student, shard)

        def form(pupil: nn.Module, teachers: Teachers) -> Step:
            def step() -> None:
                nonlocal value
                # All ranks draw the same mini-batch, and each keeps its own rows.
                if shares is None:
                    rows = torch.randint(count, (shard.total,), generator=draws, device=device)[shard.rows]
                else:
                    places = torch.rand(shard.total, generator=draws, device=device, dtype=shares.dtype)
                    rows = torch.searchsorted(shares, places[shard.rows] * shares[-1])
                if bank is None:
                    batch = _augmented(memory[rows], augmentation, draws, shard)
                    images, target, labels = batch.images, target_of(teachers, batch), batch.labels
                else:
                    images, target, labels = bank[rows]
                with execution.autocast(device), batch_norm:
                    logits = logits_of(pupil(images))
                value = loss(logits.to(images.dtype), target, labels)
                if hinted is not None:
                    value = value + training.hints * hinted.loss()
                optimizer.zero_grad(set_to_none=True)
                if ranks.alone:
                    value.backward()
                else:
                    value = backward(value, trained, shard)
                if training.clip_norm is not None:
                    nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
                optimizer.step()

            return step

        def compiled() -> Step:
            before = teachers.previous
            old = None if before is None else compile_whole(before.module)
            return form(compile_whole(student), teachers.with_modules(compile_whole(teachers.expert.module), old))

        step = form(student, teachers)
        if ranks.alone and hints is None:
            step = in_form(execution, step, compiled, draws=draws, steps=training.iterations - start)
        elif hints is None:
            exchanging(execution)
        for done in range(start, training.iterations):
            step_seed = derive_seed(context.seed, done)
            draws.manual_seed(step_seed)
            # For dropout in the student and components that use the global generator; ranks draw differently.
            torch.manual_seed(step_seed if ranks.leader else derive_seed(step_seed, "rank", ranks.rank))
            training.set_learning_rate(optimizer, done)
            step()
            context.after_step(done + 1, value.detach())


def hints_for(student: nn.Module, expert: Expert, memory: Samples, training: Training, seed: int) -> Hints | None:
    """New hints for one experience; None if ``training`` has none, or if no feature maps correspond."""
    hints = Hints(student, expert, memory.pixels(slice(_PROBE)), seed) if training.hints else None
    return hints if hints is not None and hints.pairs else None


@attrs.frozen(eq=False)
class _Bank:
    """Augmented images with their targets; every rank holds all of it."""

    images: Images
    target: Target
    labels: Labels

    def __getitem__(self, rows: Labels) -> tuple[Images, Target, Labels]:
        images, labels, *columns = (c.index_select(0, rows) for c in (self.images, self.labels, *_columns(self.target)))
        return images, Target(*columns), labels

    def balanced(self) -> Float[Tensor, " images"]:
        """A probability for each image, with which all classes of the targets are drawn about equally often."""
        open_to = self.target.candidates & self.target.defined
        classes = self.target.logits.masked_fill(~open_to, -torch.inf).argmax(1)
        counts = classes.bincount(minlength=open_to.shape[1]).double()
        mean = len(classes) / counts.count_nonzero()
        shares = 1 / counts.clamp_min(_RARE * mean)[classes]
        return shares / shares.sum()

    def parts(self) -> Iterator[tuple[Images, Target]]:
        """All images in order, in batches for inference."""
        rows_of_all = torch.arange(len(self.images), device=self.images.device)
        for rows in rows_of_all.split(inference_batch_size(self.images.shape[1:])):
            yield self[rows][:2]


def _fill_bank(
    memory: Samples,
    shard: Shard,
    augmentation: Augmentation | None,
    target_of: Callable[[Samples], Target],
    *,
    views: int,
    seed: int,
) -> _Bank:
    """Augment every image ``views`` times and run the teachers on each view once; ranks share the forward passes."""
    draws = torch.Generator(memory.images.device)
    images: list[Images] = []
    targets: list[list[Tensor]] = []
    size = inference_batch_size(memory.images.shape[1:])
    for view in range(views):
        draws.manual_seed(derive_seed(seed, "bank", view))
        for start in range(0, len(memory), size):
            batch = memory[start : start + size]
            part = shard.ranks.shard(len(batch))
            whole = _augmented(batch, augmentation, draws, ALONE.shard(len(batch)))
            images.append(whole.images)
            # A rank without rows runs the teachers on a placeholder, since every rank takes part in the exchange.
            target = target_of(whole[part.rows] if part.own else whole[:1])
            targets.append([_collected(column, part) for column in _columns(target)])
    target = Target(*map(torch.cat, zip(*targets, strict=True)))
    return _Bank(torch.cat(images), target, memory.labels.repeat(views))


@torch.no_grad()
def views_of(samples: Samples, augmentation: Augmentation | None, size: int, *, seed: int) -> Samples:
    """``size`` augmented samples, those of one view of all samples after those of another."""
    draws = make_generator(samples.images.device, seed, "views")
    repeated = samples[torch.arange(size, device=samples.images.device) % len(samples)]
    batches = repeated.pixels().split(inference_batch_size(samples.images.shape[1:]))
    images = torch.cat([augment(augmentation, batch, draws, ALONE.shard(len(batch))) for batch in batches])
    return attrs.evolve(repeated, images=images)


@torch.no_grad()
def store_logits(memory: Samples, teachers: Teachers, execution: Execution = EAGER) -> Samples:
    """The samples with the combined target of both teachers in place of their stored logits.

    Raises:
        SettingError: the combiner leaves the logits of a known class undefined.
    """
    parts, known = list[Tensor](), teachers.known
    previous = nullcontext() if teachers.previous is None else frozen(teachers.previous.module)
    with frozen(teachers.expert.module), previous:
        for rows in torch.arange(len(memory)).split(inference_batch_size(memory.images.shape[1:])):
            batch = memory[rows.to(memory.images.device)]
            with execution.autocast(memory.images.device):
                target = teachers.target(attrs.evolve(batch, images=batch.pixels()))
            if not bool(target.defined[:, known].all()):
                expected = "a combiner that defines the logits of all known classes, since Training.stored is set"
                remedy = "use exml.combiners.SideBySide, or set stored to False"
                raise SettingError(expected=expected, got=type(teachers.combiner).__name__, remedy=remedy)
            parts.append(target.logits)
    return attrs.evolve(memory, logits=torch.cat(parts))


def _stored_bank(memory: Samples, teachers: Teachers) -> _Bank:
    assert memory.logits is not None
    seen = teachers.known.expand(len(memory), -1)
    return _Bank(memory.pixels(), Target(memory.logits, seen, seen), memory.labels)


def _augmented(batch: Samples, augmentation: Augmentation | None, draws: torch.Generator, shard: Shard) -> Samples:
    return attrs.evolve(batch, images=augment(augmentation, batch.images, draws, shard))


def _columns(target: Target) -> tuple[Tensor, ...]:
    return target.logits, target.defined, target.candidates


def _collected(column: Tensor, part: Shard) -> Tensor:
    """The rows of all ranks, without placeholders."""
    if part.ranks.alone:
        return column
    # Not every backend exchanges booleans.
    return part.collect(column[: part.own].to(torch.uint8 if column.dtype == torch.bool else column.dtype)).to(column)
