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
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.preflight import check_finite, check_samples, check_student, copy_expert, rehearse
from exml.learning.state import RunState, copy_state, load_optimizer, load_student, optimizer_state
from exml.learning.strategy import Strategy
from exml.protocols import GenerationContext


class Learner:
    """Learns one student from experts, one after another, without their data (Eq. 4, Algorithm 1).

    The student may be any module that takes images in pixel units and gives one logit for each class that the stream
    will ever bring; its architecture need not be that of any expert. To have it normalise its images, wrap it in
    :class:`exml.models.Normalized`.

    Args:
        strategy: what to do; see :class:`exml.StrategyBuilder`.
        student: trained in place.
        device: where student, buffer and the expert at work live.
        seed: of everything random. On the CPU the same seed gives the same student, bit for bit (unless ``execution``
            compiles).
        folder: where checkpoints go; None keeps none. One that holds a checkpoint is refused: see :meth:`resume`.
        checkpoint_every: steps (of generation, or of distillation) between two checkpoints within an experience.
        observers: told of every event, in order; see :mod:`exml.learning.events`.
        execution: whether the hot loops are compiled or captured, and their precision; a run may go on with another.
        ranks: the processes that learn together, from :func:`exml.distributed.join`. Every rank makes its learner and
            calls its methods with the same arguments; the leader alone writes, into a folder that all can read.
            They learn what one would, but for rounding, and a run may go on with another number of them.

    Raises:
        SettingError: ``checkpoint_every`` is not positive, or a mini-batch has fewer images than there are ranks.
        CheckpointError: when the folder holds a checkpoint, or the strategy has a part that cannot be written into one.

    >>> import exml
    >>> strategy = exml.recipes.exml().training(exml.Training(iterations=2, batch_size=4, learning_rate=0.01))
    >>> strategy = strategy.buffer(exml.buffers.Cumulative(size=8)).build()
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = exml.Expert(head, classes=(0, 3), image_shape=(1, 8, 8))
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
        device: torch.device | str = "cpu",
        seed: int = 0,
        folder: Path | str | None = None,
        checkpoint_every: int = 1_000,
        observers: Sequence[events.Observer] = (),
        execution: Execution = EAGER,
        ranks: Ranks = ALONE,
    ) -> None:
        if checkpoint_every < 1:
            raise SettingError(
                expected="checkpoint_every >= 1", got=str(checkpoint_every), remedy="leave folder out to keep none"
            )
        if strategy.training.batch_size < ranks.size:
            raise SettingError(
                expected=f"a mini-batch of at least {ranks.size} images, one for each rank",
                got=f"batch_size={strategy.training.batch_size}",
                remedy="start fewer ranks, or enlarge the mini-batch",
            )
        self.strategy = strategy
        self.student = student.to(device)
        self.device = torch.device(device)
        self.seed = seed
        self.checkpoint_every = checkpoint_every
        self.observers = list(observers)
        self.execution = execution
        self.ranks = ranks
        self._folder: CheckpointFolder | None = None
        self._memory: Samples | None = None
        self._run = RunState()
        self._restored: dict[str, State] = {}
        self._broken = False
        self._classes = 0
        self._initial = copy_state(self.student) if strategy.student == "reset" else None
        if folder is not None:
            self._open(folder)
            if CheckpointFolder(folder).exists():
                raise CheckpointError(
                    expected=f"no checkpoint in {folder}",
                    got="one",
                    remedy="go on with it by Learner(...).resume(folder), or choose another folder",
                )
            ranks.wait()  # until all have looked: the leader will soon write one

    @property
    def experience(self) -> int:
        """How many experiences are over."""
        return self._run.experience

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """The global ids of the classes that the experts so far knew, ascending."""
        return self._run.known

    @property
    def memory(self) -> Samples:
        """The buffer M_i.

        Raises:
            StreamError: before the first experience made one.
        """
        if self._memory is None:
            raise StreamError(expected="a buffer", got="none yet", remedy="learn from an expert first")
        return self._memory

    def learn(self, expert: Expert, /) -> None:
        """One experience: generate, update the buffer, distil (Eq. 4).

        Args:
            expert: f_i^S; moved to the learner's device.

        Raises:
            ExpertError: it contradicts its card, or its classes do not fit the student.
            ShapeError: its images do not fit the student, or a generator made samples of a wrong shape.
            NonFiniteError: NaN or infinity in its weights or logits, in the student, or in a loss.
            BufferSizeError: its share of the buffer is empty.
            StreamError: a resumed learner was killed within an experience of another expert.
            CheckpointError: a checkpoint cannot be written; the one before is as it was.
        """
        if self._broken:
            raise StreamError(
                expected="a learner that was not stopped half-way",
                got=f"one stopped in the distillation of experience {self.experience + 1}",
                remedy="call resume(folder) to go on from its last checkpoint, or make a new learner",
            )
        expert = expert.to(self.device)
        number, resumed = self.experience + 1, self._run.phase != "idle"
        share = self.strategy.buffer.share(number)
        self._classes = check_student(self.student, expert)
        expert.check(self._classes)
        rehearse(self.student, expert, self.strategy, self._classes)
        if self.strategy.training.ridge is not None:
            ridge_head(self.student, torch.zeros(2, *expert.image_shape, device=expert.device), self._classes)
        self._run.admit(expert)
        self._agree(expert)
        self._emit(events.ExperienceStarted(number, expert.name, expert.classes, resumed))
        with global_seed(self.seed, "experience", number):
            if self._run.phase != "distillation":
                new = self._generate(expert, number, share)
                self._broken = True  # until the experience is over
                self._begin_distillation(expert, number, new)
            self._broken = True
            self._distil(expert, number)
        self._run.finish(expert)
        self._restored, self._broken = {}, False
        self._checkpoint()
        self._emit(events.ExperienceFinished(number, self.student, self.memory))

    def learn_stream(self, stream: ExpertStream | OpenStream, /) -> None:
        """Algorithm 1: learn from every expert of a stream, from the first that a resumed learner has not finished.

        Args:
            stream: all experts of the run, also those learned before.

        Raises:
            StreamError: the stream is empty, or shorter than what was learned already.
            BufferSizeError: the buffer is too small for the length of the stream, where that is known.
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
        self._check_length(self.experience)

    def resume(self, folder: Path | str, /) -> Learner:
        """Go on with the run in a folder; this learner must have been made with its strategy, seed and architecture.

        An experience that was under way goes on when :meth:`learn` is given its expert again; on the CPU the student
        will be the one of a run that was never killed, bit for bit.

        Raises:
            CheckpointError: no whole checkpoint, or one of another strategy, seed or student.
        """
        self._open(folder)
        assert self._folder is not None
        record, groups = self._folder.read()
        ours = {"strategy": to_plain(self.strategy), "seed": self.seed}
        for name, value in ours.items():
            if record[name] != value:
                raise CheckpointError(
                    expected=f"a checkpoint of this {name}, {value}",
                    got=f"{record[name]} in {folder}",
                    remedy=f"make the learner with that {name}, or begin anew in another folder",
                )
        load_student(self.student, groups["student"], str(folder))
        if self._initial is not None:
            self._initial = {name: tensor.to(self.device) for name, tensor in groups["initial"].items()}
        self._memory = Samples.from_state(groups["memory"]).to(self.device) if "memory" in groups else None
        self._run = RunState.from_record(record["run"])
        self._restored = {name: groups[name] for name in ("generation", "optimizer", "previous") if name in groups}
        self._broken = False
        self.ranks.wait()  # until all have read
        if self.ranks.leader:
            self._folder.clean()
        return self

    def _agree(self, expert: Expert) -> None:
        """Every rank has the same expert, and the leader's student."""
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
                remedy="give the whole stream, also the experts that were learned before",
            )

    def _generate(self, expert: Expert, number: int, share: int) -> Samples:
        """Line 3 of Algorithm 1. Changes nothing, so a learner whose generator fails can go on with another expert."""
        strategy = self.strategy
        if self._run.phase == "idle":
            self._run.phase = "generation"
            self._checkpoint()
        state = self._restored.pop("generation", None)
        if state is not None:
            state = {name: tensor.to(self.device) for name, tensor in state.items()}
        journal = _Journal(state, partial(self._on_generation, number))
        context = GenerationContext(
            strategy.prior, strategy.augmentation, journal, number, self._memory, self.execution, self.ranks
        )
        try:
            new = strategy.generator(expert, share, derive_seed(self.seed, "generation", number), context)
            check_samples(new, expert, share, strategy.generator)
        except BaseException as error:
            self._run.phase, self._run.in_flight = "idle", None
            if isinstance(error, (ExpertError, ShapeError, NonFiniteError)):  # after a kill, too, another may come
                self._checkpoint()
            raise
        new = new.of_experience(number).to(self.device)
        for tensor in new.state().values():  # what was not shared out may differ in its last bits
            self.ranks.share(tensor)
        return new

    def _on_generation(self, number: int, done: int, total: int, state: Callable[[], State]) -> None:
        self._emit(events.GenerationProgress(number, done, total))
        if self._folder is not None and done % self.checkpoint_every == 0 and done < total:
            self._checkpoint({"generation": state()})

    def _begin_distillation(self, expert: Expert, number: int, new: Samples) -> None:
        """Lines 4 and 5 of Algorithm 1, and the student that the experience begins with."""
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

    def _distil(self, expert: Expert, number: int) -> None:
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
            self._run.steps = done
            self._emit(events.DistillationProgress(number, done, training.iterations, loss))
            if done % self.checkpoint_every == 0 or done == training.iterations:
                if not bool(loss.isfinite()):
                    raise NonFiniteError(
                        expected="a finite loss",
                        got=f"{loss.item()} at step {done} of experience {number}",
                        remedy="lower the learning rate or clip the gradient (clip_norm)",
                    )
                if done < training.iterations:
                    self._checkpoint({"optimizer": optimizer_state(optimizer)})

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

    def _open(self, folder: Path | str) -> None:
        self._folder = CheckpointFolder(Path(folder))
        try:
            to_plain(self.strategy)
        except UnknownNameError as error:
            raise CheckpointError(
                expected="a strategy that can be written to a checkpoint", got=error.got, remedy=error.remedy
            ) from None

    def _checkpoint(self, groups: Mapping[str, State] | None = None) -> None:
        if self._folder is None:
            return
        check_finite(self.student, "the student")
        record = {"strategy": to_plain(self.strategy), "seed": self.seed, "run": attrs.asdict(self._run)}
        states = {"student": self.student.state_dict(), **(groups or {})}
        if self._initial is not None:
            states["initial"] = self._initial
        if self.ranks.leader:
            self._folder.write(record, states)
        self._emit(events.CheckpointWritten(self.experience, self._folder.file))


@attrs.frozen
class _Journal:
    """The learner's ear in a generator."""

    state: State | None
    on_record: Callable[[int, int, Callable[[], State]], None]

    def restore(self) -> State | None:
        return self.state

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        self.on_record(done, total, state)
