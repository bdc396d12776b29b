"""Learner: Algorithm 1, one expert at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import torch
from torch import nn

import exml.learning.events as events
from exml.core.errors import (
    CheckpointError,
    ExpertError,
    NonFiniteError,
    SettingError,
    ShapeError,
    StreamError,
    UnknownNameError,
)
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.ranks import ALONE, Ranks
from exml.core.rng import derive_seed, global_seed, make_generator
from exml.core.samples import Samples
from exml.core.serialization import to_plain
from exml.core.shapes import ClassMask, Scalar, State
from exml.engine import DistillationContext, PreviousStudent, Teachers, distill, ridge_head
from exml.experts import ExpertStream, OpenStream
from exml.learning.checkpoint import EVERY, CheckpointFolder
from exml.learning.preflight import check_finite, check_samples, check_student, copy_expert, rehearse
from exml.learning.state import RunState, copy_state, load_optimizer, load_student, optimizer_state
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.protocols import GenerationContext


class Learner:
    """Learns one student from experts, one after another, without their data (Eq. 4, Algorithm 1).

    The student is any module that takes images in pixel units and returns one logit for each class that the stream
    will ever bring; its architecture may differ from that of the experts. To normalize its images, wrap it in
    :class:`exml.models.Normalized`. Buffer and experts are moved to the device of the student.

    Args:
        strategy: what to do; see :class:`exml.StrategyBuilder`.
        student: trained in place, on its own device.
        seed: of everything random. On the CPU the same seed gives the same student, bit for bit, unless ``execution``
            compiles.
        folder: where checkpoints are written, as a path or as a :class:`CheckpointFolder`, which also says how often;
            None writes none. A folder that holds a checkpoint is refused: see :meth:`resume`.
        observers: called with every event, in order; see :mod:`exml.learning.events`.
        execution: whether the hot loops are compiled or captured, and their precision. A resumed run may use another.
        ranks: the processes that learn together, from :func:`exml.distributed.join`. Every rank constructs its learner
            and calls its methods with the same arguments; only the leader writes, into a folder that all ranks can
            read. The student equals that of one process up to rounding. A run may resume with another number of ranks.
        stop: asked after every step. Once :meth:`Stop.ask` was called, the learner writes a checkpoint and returns;
            a resumed run ends with the same bytes as one that was never stopped. Several ranks agree to stop where a
            checkpoint is due.

    Raises:
        SettingError: a mini-batch has fewer images than there are ranks.
        CheckpointError: the folder holds a checkpoint, or the strategy has a part that a checkpoint cannot store.

    >>> import exml
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = exml.Expert(head, classes=(0, 3), image_shape=(1, 8, 8))
    >>> strategy = exml.recipes.default(exml.ExpertProfile.from_experts([expert])).buffer(exml.buffers.Cumulative(8))
    >>> strategy = strategy.training(exml.Training(iterations=2, batch_size=4, learning_rate=0.01)).build()
    >>> learner = exml.Learner(strategy, exml.models.ConvNet(channels=1, classes=4, image_size=8), seed=0)
    >>> learner.learn(expert)
    >>> learner.experience, learner.classes_seen, len(learner.memory)
    (1, (0, 3), 8)
    """

    def __init__(
        self,
        strategy: Strategy,
        student: nn.Module,
        *,
        seed: int = 0,
        folder: CheckpointFolder | Path | str | None = None,
        observers: Sequence[events.Observer] = (),
        execution: Execution = EAGER,
        ranks: Ranks = ALONE,
        stop: Stop | None = None,
    ) -> None:
        if strategy.training.batch_size < ranks.size:
            raise SettingError(
                expected=f"a mini-batch of at least {ranks.size} images, one for each rank",
                got=f"batch_size={strategy.training.batch_size}",
                remedy="start fewer ranks, or enlarge the mini-batch",
            )
        self.strategy = strategy
        self.student = student
        self.seed = seed
        self.observers = list(observers)
        self.execution = execution
        self.ranks = ranks
        self.stop = stop
        self._folder: CheckpointFolder | None = None
        self._memory: Samples | None = None
        self._run = RunState()
        self._restored: dict[str, State] = {}
        self._broken = False
        self._classes = 0
        self._initial = copy_state(self.student) if strategy.student == "reset" else None
        if folder is not None:
            opened = self._open(folder)
            if opened.exists():
                raise CheckpointError(
                    expected=f"no checkpoint in {opened.path}",
                    got="one",
                    remedy="resume it with Learner(...).resume(folder), or choose another folder",
                )
            ranks.wait()  # until all have looked: the leader will soon write one

    @property
    def device(self) -> torch.device:
        """The device of the student."""
        return next((tensor.device for tensor in self.student.state_dict().values()), torch.device("cpu"))

    @property
    def experience(self) -> int:
        """The number of finished experiences."""
        return self._run.experience

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """The global ids of the classes of all experts so far, ascending."""
        return self._run.known

    @property
    def memory(self) -> Samples:
        """The buffer M_i.

        Raises:
            StreamError: before the first experience.
        """
        if self._memory is None:
            raise StreamError(expected="a buffer", got="none yet", remedy="learn from an expert first")
        return self._memory

    def learn(self, expert: Expert, /) -> None:
        """One experience: generate, update the buffer, distill (Eq. 4).

        Args:
            expert: f_i^S; moved to the learner's device.

        Raises:
            ExpertError: it contradicts its card, or its classes do not fit the student.
            ShapeError: its images do not fit the student, or the generator returned samples of a wrong shape.
            NonFiniteError: NaN or infinity in its weights or logits, in the student, or in a loss.
            BufferSizeError: its share of the buffer is empty.
            StreamError: a resumed learner was killed within an experience of another expert.
            CheckpointError: a checkpoint cannot be written; the previous one is unchanged.
        """
        if self._broken:
            raise StreamError(
                expected="a learner that was not interrupted",
                got=f"one interrupted in the distillation of experience {self.experience + 1}",
                remedy="call resume(folder) to continue from its last checkpoint, or make a new learner",
            )
        expert = expert.to(self.device)
        number, resumed = self.experience + 1, self._run.phase != "idle"
        share = self.strategy.buffer.share(number)
        self._classes = check_student(self.student, expert.image_shape)
        expert.check(self._classes)
        rehearse(self.student, expert, self.strategy, self._classes)
        if self.strategy.training.ridge is not None:
            ridge_head(self.student, torch.zeros(2, *expert.image_shape, device=expert.device), self._classes)
        self._run.admit(expert)
        self._agree(expert)
        self._emit(events.ExperienceStarted(number, expert.name, expert.classes, resumed))
        try:
            with global_seed(self.seed, "experience", number):
                if self._run.phase != "distillation":
                    new = self._generate(expert, number, share)
                    self._broken = True  # until the experience is finished
                    self._begin_distillation(expert, number, new)
                self._broken = True
                self._distill(expert, number)
        except _Stopped:
            return
        self._run.finish(expert)
        self._restored, self._broken = {}, False
        self._checkpoint()
        self._emit(events.ExperienceFinished(number, self.student, self.memory))

    def learn_stream(self, stream: ExpertStream | OpenStream, /) -> None:
        """Algorithm 1: learn from every expert of a stream; a resumed learner skips those that it has learned from.

        Args:
            stream: all experts of the run, including those learned before.

        Raises:
            StreamError: the stream is empty, or shorter than what was learned before.
            BufferSizeError: the buffer is too small for the length of the stream, if that is known.
        """
        if isinstance(stream, ExpertStream):
            self._check_length(len(stream))
            self.strategy.buffer.share(len(stream))
            experts = iter(stream[self.experience :])
        else:
            experts = stream.after(self.experience)
        for expert in experts:
            self.learn(expert)
            del expert  # before the next one is built: one in use at a time
            if self._stopping():
                return
        self._check_length(self.experience)

    def resume(self, folder: CheckpointFolder | Path | str, /) -> Learner:
        """Continue the run in a folder; this learner must have its strategy, seed and architecture.

        An interrupted experience continues when :meth:`learn` is given its expert again. On the CPU the student equals
        that of a run that was never killed, bit for bit.

        Raises:
            CheckpointError: there is no complete checkpoint, or it is of another strategy, seed or student.
        """
        opened = self._open(folder)
        record, groups = opened.read()
        ours = {"strategy": to_plain(self.strategy), "seed": self.seed}
        for name, value in ours.items():
            if record[name] != value:
                raise CheckpointError(
                    expected=f"a checkpoint of this {name}, {value}",
                    got=f"{record[name]} in {opened.path}",
                    remedy=f"make the learner with that {name}, or start again in another folder",
                )
        load_student(self.student, groups["student"], str(opened.path))
        if self._initial is not None:
            self._initial = {name: tensor.to(self.device) for name, tensor in groups["initial"].items()}
        self._memory = Samples.from_state(groups["memory"]).to(self.device) if "memory" in groups else None
        self._run = RunState.from_record(record["run"])
        self._restored = {name: groups[name] for name in ("generation", "optimizer", "previous") if name in groups}
        self._broken = False
        self.ranks.wait()  # until all have read
        if self.ranks.leader:
            opened.clean()
        return self

    def _agree(self, expert: Expert) -> None:
        """Check that every rank has the same expert, and copy the leader's student to all."""
        ours = self._run.in_flight or ""
        if self.ranks.tell(ours) != ours:
            raise StreamError(
                expected=f"the leader's expert on every rank in experience {self.experience + 1}",
                got=f"another one ({expert.name!r}) on rank {self.ranks.rank}",
                remedy="give all ranks the same stream",
            )
        for tensor in self.student.state_dict().values():
            self.ranks.share(tensor)

    def _check_length(self, length: int) -> None:
        if length == 0 or length < self.experience:
            raise StreamError(
                expected=f"a stream of at least {max(1, self.experience)} expert(s)",
                got=str(length),
                remedy="give the whole stream, including the experts that were learned before",
            )

    def _generate(self, expert: Expert, number: int, share: int) -> Samples:
        """Line 3 of Algorithm 1. Changes nothing, so a learner whose generator fails can learn from another expert."""
        strategy = self.strategy
        if self._run.phase == "idle":
            self._run.phase = "generation"
            self._checkpoint()
        state = self._restored.pop("generation", None)
        if state is not None:
            state = {name: tensor.to(self.device) for name, tensor in state.items()}
        journal = _Journal(state, partial(self._on_generation, number, share))
        context = GenerationContext(
            strategy.prior, strategy.augmentation, journal, number, self._memory, self.execution, self.ranks
        )
        try:
            new = strategy.generator(expert, share, derive_seed(self.seed, "generation", number), context)
            check_samples(new, expert, share, strategy.generator)
        except BaseException as error:
            self._run.phase, self._run.in_flight = "idle", None
            if isinstance(error, (ExpertError, ShapeError, NonFiniteError)):  # a resumed run may get another expert
                self._checkpoint()
            raise
        new = new.of_experience(number).to(self.device)
        for tensor in new.state().values():  # ranks may differ in the last bits
            self.ranks.share(tensor)
        return new

    def _on_generation(self, number: int, share: int, done: int, total: int, state: Callable[[], State]) -> None:
        self._emit(events.GenerationProgress(number, done, total, share))
        if done < total:
            self._checkpoint_step(done, lambda: {"generation": state()})

    def _checkpoint_step(self, done: int, groups: Callable[[], Mapping[str, State]]) -> None:
        """Between two steps: write a checkpoint if one is due, and stop if that was asked for."""
        due = self._due(done)
        stopping = self._stopping(due)
        if due or stopping:
            self._checkpoint(groups)
        if stopping:
            raise _Stopped

    def _due(self, done: int) -> bool:
        return done % (EVERY if self._folder is None else self._folder.every) == 0

    def _stopping(self, due: bool = True) -> bool:
        """Whether to stop here. Several ranks exchange their answer only where a checkpoint is due."""
        if self.stop is None or self.ranks.alone:
            return self.stop is not None and self.stop.asked
        return due and self.ranks.leader_says(self.stop.asked)

    def _begin_distillation(self, expert: Expert, number: int, new: Samples) -> None:
        """Lines 4 and 5 of Algorithm 1, and the student that the experience starts from."""
        start = self.strategy.student
        self._memory = self.strategy.buffer(self._memory, new, make_generator(self.device, self.seed, "buffer", number))
        self._emit(events.BufferUpdated(number, new, self._memory))
        self._restored = {"previous": copy_state(self.student)} if number > 1 else {}
        if self._initial is not None:
            self.student.load_state_dict(self._initial)
        if start == "first-expert" and number == 1:
            copy_expert(expert, self.student, self._classes)
        self._run.phase, self._run.steps = "distillation", 0
        if self._folder is not None:
            groups = {"memory": self._memory.state(), **self._restored}
            self._run.memory = self._folder.memory_name(number)
            if self.ranks.leader:
                self._folder.write_memory(number, groups)
        self._checkpoint()
        if self._stopping():
            raise _Stopped

    def _distill(self, expert: Expert, number: int) -> None:
        """Lines 6 to 12 of Algorithm 1."""
        strategy, training = self.strategy, self.strategy.training
        if strategy.student == "first-expert" and number == 1:
            return
        previous = None
        if number > 1:
            module = copy.deepcopy(self.student)
            module.load_state_dict(self._restored["previous"])
            module.eval().requires_grad_(False)
            previous = PreviousStudent(module, self._mask(self._run.known), self._mask(self._run.present))
        optimizer = training.make_optimizer(self.student)
        if "optimizer" in self._restored:
            load_optimizer(optimizer, self._restored.pop("optimizer"))

        def after_step(done: int, loss: Scalar) -> None:
            self._run.steps, last = done, done == training.iterations
            self._emit(events.DistillationProgress(number, done, training.iterations, loss, training.batch_size))
            if (last or self._due(done)) and not bool(loss.isfinite()):
                raise NonFiniteError(
                    expected="a finite loss",
                    got=f"{loss.item()} at step {done} of experience {number}",
                    remedy="lower the learning rate or clip the gradient (clip_norm)",
                )
            if not last:
                self._checkpoint_step(done, lambda: {"optimizer": optimizer_state(optimizer)})

        seed = derive_seed(self.seed, "distillation", number)
        distill(
            self.student,
            Teachers(previous, expert, strategy.normalizer, strategy.combiner, self._classes),
            self.memory,
            loss=strategy.loss,
            training=training,
            augmentation=strategy.augmentation,
            context=DistillationContext(
                seed, optimizer, self._run.steps, after_step, execution=self.execution, ranks=self.ranks
            ),
        )
        check_finite(self.student, "the student")

    def _mask(self, classes: Sequence[int]) -> ClassMask:
        mask = torch.zeros(self._classes, dtype=torch.bool)
        mask[list(classes)] = True
        return mask.to(self.device)

    def _emit(self, event: events.Event) -> None:
        for observer in self.observers:
            observer(event)

    def _open(self, folder: CheckpointFolder | Path | str) -> CheckpointFolder:
        self._folder = CheckpointFolder.of(folder)
        try:
            to_plain(self.strategy)
        except UnknownNameError as error:
            raise CheckpointError(
                expected="a strategy that a checkpoint can store", got=error.got, remedy=error.remedy
            ) from None
        return self._folder

    def _checkpoint(self, groups: Callable[[], Mapping[str, State]] = dict) -> None:
        if self._folder is None:
            return
        check_finite(self.student, "the student")
        record = {"strategy": to_plain(self.strategy), "seed": self.seed, "run": attrs.asdict(self._run)}
        states = {"student": self.student.state_dict(), **groups()}
        if self._initial is not None:
            states["initial"] = self._initial
        if self.ranks.leader:
            self._folder.write(record, states)
        self._emit(events.CheckpointWritten(self.experience, self._folder.file))


class _Stopped(BaseException):
    """Leaves a hot loop whose state is in the checkpoint; not an Exception, so that no component catches it."""


@attrs.frozen
class _Journal:
    """Forwards the progress of a generator to the learner."""

    state: State | None
    on_record: Callable[[int, int, Callable[[], State]], None]

    def restore(self) -> State | None:
        return self.state

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        self.on_record(done, total, state)
