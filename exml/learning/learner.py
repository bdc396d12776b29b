"""Learner: Algorithm 1, one expert at a time."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import nn

import exml.learning.events as events
from exml.core.admission import guarded, raised_in_module
from exml.core.errors import (
    CheckpointError,
    ExmlWarning,
    ExpertError,
    NonFiniteError,
    SettingError,
    ShapeError,
    StreamError,
    SuspectError,
)
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.outputs import logits_of
from exml.core.ranks import ALONE, Ranks
from exml.core.rng import derive_seed, global_seed, make_generator
from exml.core.samples import Samples, inference_batch_size
from exml.core.serialization import to_plain
from exml.core.shapes import Scalar, State
from exml.engine import (
    DistillationContext,
    Teachers,
    distill,
    frozen,
    hints_for,
    ridge_head,
    store_logits,
    views_of,
)
from exml.experts import ExpertStream, OpenStream, Screening
from exml.learning.checkpoint import (
    EVERY,
    CheckpointFolder,
    RunState,
    identity,
    load_optimizer,
    load_student,
    optimizer_state,
)
from exml.learning.preflight import (
    check_apart,
    check_finite,
    check_memory,
    check_samples,
    check_student,
    copy_expert,
    device_of,
    rehearse,
    rehearse_training,
    require_room,
    share_of,
    updated,
    warn_of_scarcity,
)
from exml.learning.screening import Panel
from exml.learning.starts import Starts
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.models import grow_head
from exml.protocols import GenerationContext


class Learner:
    """Learns one student from experts, one after another, without their data (Eq. 4, Algorithm 1).

    The student takes images in pixel units and returns one logit for each class of the whole stream. Its architecture
    may differ from that of the experts; :class:`exml.models.Normalized` normalizes its images. On the CPU, the same
    seed and number of threads (:func:`torch.get_num_threads`) give the same student, bit for bit, unless ``execution``
    compiles. Another number of threads changes the last bits of sums, and with them the student.

    Args:
        student: trained in place, on its own device; buffer and experts move there.
        seed: of everything random.
        folder: of the checkpoints; None writes none. To continue from a checkpoint, call :meth:`resume`.
        observers: called with every event, in order; see :mod:`exml.learning.events`.
        execution: whether the hot loops are compiled or captured, and their precision. A resumed run may use another.
        ranks: the processes that learn together, from :func:`exml.distributed.join`. All make the same calls; only the
            leader writes, into a folder that all can read. The student equals that of one process up to rounding, and
            a run may resume with another number of ranks.
        stop: checked after every step, or by several ranks at every checkpoint. After :meth:`Stop.ask`, the learner
            writes a checkpoint and returns.

    Raises:
        SettingError: a mini-batch has fewer images than there are ranks.
        CheckpointError: the folder holds a checkpoint, or the strategy has a part that a checkpoint cannot store.

    >>> import exml, torch
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
            expected = f"a mini-batch of at least {ranks.size} images, one for each rank"
            remedy = "start fewer ranks, or enlarge the mini-batch"
            raise SettingError(expected=expected, got=f"batch_size={strategy.training.batch_size}", remedy=remedy)
        self.strategy, self.student, self.seed = strategy, student, seed
        self.observers, self.execution, self.ranks, self.stop = list(observers), execution, ranks, stop
        self._folder: CheckpointFolder | None = None
        self._memory: Samples | None = None
        self._run = RunState()
        self._panel = Panel()
        self._restored: dict[str, State] = {}
        self._broken = False
        self._classes = 0
        self.on_suspect: Literal["refuse", "warn", "accept"] = strategy.on_suspect or "warn"
        """What to do with a suspect expert; see :class:`exml.Strategy`."""
        self.start: State | None = None
        """Weights that the experts were trained from, by the names of their state dicts, if they are known. Otherwise
        the learner compares each expert with those before it, and the first with the second, see :meth:`preview`."""
        self._starts = Starts()
        self._rehearsed: tuple[int, int, int] | None = None
        self._scarce = False
        self._loss: Scalar | None = None
        self._history: list[Mapping[str, Any]] = []
        self._unsaved: list[Mapping[str, Any]] = []
        self._initial = copy.deepcopy(self.student.state_dict()) if strategy.student == "reset" else None
        if folder is not None:
            opened = self._open(folder)
            if opened.exists():
                remedy = "resume it with Learner(...).resume(folder), or choose another folder"
                raise CheckpointError(expected=f"no checkpoint in {opened.path}", got="one", remedy=remedy)
            ranks.wait()  # until all have looked: the leader will soon write one

    @property
    def device(self) -> torch.device:
        """The device of the student."""
        return device_of(self.student)

    @property
    def experience(self) -> int:
        """The number of finished experiences."""
        return self._run.experience

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """The global ids of the classes of all experts so far, ascending."""
        return self._run.known

    @property
    def _compares(self) -> bool:
        """Whether the strategy has a part that compares experts with their start."""
        return self.strategy.calibration is not None and self.start is None

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """The notes given to :meth:`learn`, one per experience, with ``screened``, and ``loss`` if it is finished.

        A learner without a folder keeps no history of finished experiences.
        """
        current = None if self._run.phase == "idle" else self._run.note
        return (*self._history, *([] if current is None else [current]))

    @property
    def memory(self) -> Samples:
        """The buffer M_i; raises :class:`exml.core.errors.StreamError` before the first experience."""
        if self._memory is None:
            raise StreamError(expected="a buffer", got="none yet", remedy="learn from an expert first")
        return self._memory

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(self, expert: Expert, /, *, note: Mapping[str, Any] | None = None) -> None:
        """One experience with the expert f_i^S: generate, update the buffer, distill (Eq. 4).

        Args:
            expert: its images must fit the student.
            note: JSON about the expert, which the checkpoint keeps in :attr:`history`, such as the name of its file.

        Raises:
            ExpertError: the expert raises an error or contradicts its card, its classes do not fit the student, or it
                shares weights with it.
            SettingError: the student cannot take a training step, which a copy of it tries first.
            SuspectError: it is suspect, and suspect experts are refused.
            ShapeError: its images do not fit the student, or a part of the strategy returned a wrong type or shape.
            NonFiniteError: NaN or infinity in the expert, in the student, or in a loss.
            BufferSizeError: its share of the buffer is empty.
            SettingError: its share of the buffer is no integer of at least 1, or does not fit in memory.
            StreamError: the checkpoint is within an experience of another expert.
            CheckpointError: a checkpoint cannot be written; the previous one is unchanged.
        """
        if self._broken:
            got = f"one interrupted in the distillation of experience {self.experience + 1}"
            remedy = "call resume(folder) to continue from the last checkpoint, or make a new learner"
            raise StreamError(expected="a learner that was not interrupted", got=got, remedy=remedy)
        expert = expert.to(self.device)
        number, resumed = self.experience + 1, self._run.phase != "idle"
        share = share_of(self.strategy.buffer, number)
        made = self.strategy.training.images_for(share)
        self._classes = check_student(self.student, expert.image_shape)
        expert.check(self._classes, unwrap=True)
        check_apart(self.student, expert)
        note = dict(note or {})
        if not resumed:
            note["screened"] = [to_plain(found) for found in self._screen(expert, number) if found.problems]
        if self.device.type == "cpu":
            require_room(self.strategy, expert.image_shape, share)
        rehearse(self.student, expert, self.strategy, self._classes)
        if self._rehearsed != expert.image_shape:
            rehearse_training(self.student, expert, self.strategy, self._classes, self.execution)
            self._rehearsed = expert.image_shape
        if self.strategy.training.ridge is not None:
            ridge_head(self.student, torch.zeros(2, *expert.image_shape, device=expert.device), self._classes)
        if made < len(expert.classes) and not self._scarce:
            warn_of_scarcity(expert, made)
            self._scarce = True
        self._run.admit(expert, note)
        self._agree(expert)
        self._emit(events.ExperienceStarted(number, expert.name, expert.classes, resumed))
        try:
            with global_seed(self.seed, "experience", number):
                new = None if self._run.phase == "distillation" else self._generate(expert, number, made)
                self._broken = True  # until the experience is finished
                if new is not None:
                    self._begin_distillation(expert, number, new, share)
                self._distill(expert, number)
        except _Stopped:
            return
        if self._compares:
            self._starts.note(expert)
        done = self._run.finish(expert, None if self._loss is None else float(self._loss))
        if self._folder is not None:
            self._unsaved.append(done)
            self._history.append(done)
        self._restored, self._broken = {}, False
        self._checkpoint()
        self._emit(events.ExperienceFinished(number, self.student, self.memory))

    def learn_stream(self, stream: ExpertStream | OpenStream, /) -> None:
        """Algorithm 1: learn from every expert of a whole stream; a resumed learner skips those it has learned from.

        Suspect experts are passed over if they are refused.

        Raises:
            StreamError: the stream is empty, or shorter than what was learned before.
            BufferSizeError: the buffer is too small for the length of the stream, if that is known.
        """
        if isinstance(stream, ExpertStream):
            self._check_length(len(stream))
            share_of(self.strategy.buffer, len(stream))
            self.preview([partial(stream.__getitem__, place) for place in range(len(stream))])
        begin = self.experience + self._run.refused
        for expert in stream[begin:] if isinstance(stream, ExpertStream) else stream.after(begin):
            try:
                self.learn(expert)
            except SuspectError as error:
                self._run.refused += 1
                self._checkpoint()
                self._emit(events.ExpertRefused(expert.name, str(error)))
            del expert  # before the next one is built: one in use at a time
            if self._stopping():
                return
        self._check_length(self.experience)

    @torch.inference_mode(False)
    def grow(self, classes: int, image_shape: tuple[int, int, int] | None = None, /) -> None:
        """Give the student more outputs, between two experiences, for experts with new classes.

        Its old outputs stay. The new rows of its last layer, which is found as in :func:`exml.models.grow_head`, depend
        only on the learner's seed and ``classes``. The next checkpoint contains them.

        Args:
            classes: the new number of outputs; with the present one, nothing changes.
            image_shape: of the student's images; required before the first experience.

        Raises:
            StreamError: an experience has started and is not finished.
            SettingError: ``classes`` is lower than the number of outputs, or the last layer is not found.
        """
        if self._run.phase != "idle" or self._broken:
            got = f"experience {self.experience + 1} in progress"
            remedy = "grow the student when the experience is finished"
            raise StreamError(expected="a student between two experiences", got=got, remedy=remedy)
        if image_shape is None:
            channels, height, width = self.memory.images.shape[1:]
            image_shape = channels, height, width
        grow_head(self.student, classes, image_shape, seed=derive_seed(self.seed, "growth"))
        self._rehearsed = None
        if self._initial is not None:
            pairs = {name: (first, self.student.state_dict()[name]) for name, first in self._initial.items()}
            self._initial |= {
                name: torch.cat((first, now[len(first) :])) for name, (first, now) in pairs.items() if first.ndim
            }

    def preview(self, loads: Sequence[Callable[[], Expert]], /) -> None:
        """Compare the first experts of a stream before the student learns from any of them.

        Without it, the first experts of a stream are compared only with each other, and a suspect one may be found
        after the student has learned from it. Does nothing after the start of the first experience.

        Args:
            loads: functions that each load an expert; one expert is in memory at a time. An expert that cannot be
                loaded is passed over.
        """
        if self.experience == 0 and self._run.phase == "idle" and len(loads) > 1:
            with global_seed(self.seed, "preview"):
                self._panel.preview(loads, self.device)
                if self._compares:
                    self._starts.preview(loads[1])

    @torch.inference_mode(False)
    def resume(self, folder: CheckpointFolder | Path | str, /) -> Learner:
        """Continue the run in a folder; this learner must have its strategy, seed and architecture.

        If the student of the run has grown since it was made, this learner's student grows as well.

        To finish an interrupted experience, call :meth:`learn` with its expert again. On the CPU, the student equals
        that of an uninterrupted run, bit for bit, if torch has the same number of threads; otherwise an ExmlWarning
        states both numbers. A damaged checkpoint or one of another run raises a CheckpointError.
        """
        opened = self._open(folder)
        record, groups, history = opened.read()
        for name, value in identity(self.strategy, self.seed).items():
            if (theirs := getattr(record, name)) != value:
                expected = f"a checkpoint of this {name}, {value}"
                remedy = f"make the learner with that {name}, or start again in another folder"
                raise CheckpointError(expected=expected, got=f"{theirs} in {opened.path}", remedy=remedy)
        load_student(self.student, groups.get("previous", groups.get("student", {})), str(opened.path))
        load_student(self.student, groups.get("student", {}), str(opened.path))
        try:
            if self._initial is not None:
                self._initial = {name: tensor.to(self.device) for name, tensor in groups["initial"].items()}
            self._memory = Samples.from_state(groups["memory"]).to(self.device) if "memory" in groups else None
            if self._memory is not None:
                check_memory(self.student, self._memory)
            self._panel.restore(groups.get("screening", {}))
            self._starts.restore(groups.get("starts", {}))
        except (KeyError, TypeError, ShapeError) as error:
            remedy = "start again in another folder"
            raise CheckpointError(expected=f"all tensors in {opened.path}", got=str(error), remedy=remedy) from error
        if self.ranks.leader and self.device.type == "cpu" and record.threads != torch.get_num_threads():
            warnings.warn(
                f"the checkpoint in {opened.path} was written with {record.threads} thread(s), and torch has"
                f" {torch.get_num_threads()} now: the student will differ from that of an uninterrupted run in the last"
                f" bits; to prevent it, call torch.set_num_threads({record.threads}) or set OMP_NUM_THREADS",
                ExmlWarning,
                stacklevel=2,
            )
        self._run, self._history, self._unsaved = record.run, history, []
        self._restored = {
            name: groups[name] for name in ("generation", "optimizer", "hints", "previous") if name in groups
        }
        self._broken = False
        self.ranks.wait()  # until all have read
        if self.ranks.leader:
            opened.clean(record)
        return self

    def _screen(self, expert: Expert, number: int) -> list[Screening]:
        """Screen an expert, and the earlier ones again that it contradicts."""
        seen = self._panel.observe(expert)
        found = self._panel.screen(seen)
        refused = self.ranks.leader_says(self.on_suspect == "refuse" and bool(found.reasons))
        late = [] if found.reasons else self._panel.seat(seen)
        screenings = [attrs.evolve(found, learned=not refused), *late]
        for screening in screenings:
            self._emit(events.ExpertScreened(number, screening))
            problems = screening.problems
            if refused:
                expected, remedy = f"a sound expert {expert.name!r}", "leave it out, or set on_suspect to 'warn'"
                raise SuspectError(expected=expected, got=f"a suspect one, because {problems}", remedy=remedy)
            if problems and self.on_suspect != "accept":
                message = f"expert {screening.expert!r} is suspect, because {problems}"
                warnings.warn(f"{message}; leave it out of the stream if it is broken", ExmlWarning, stacklevel=3)
        return screenings

    def _agree(self, expert: Expert) -> None:
        """Check that all ranks have the same expert, and copy the leader's student to them."""
        ours = self._run.in_flight or ""
        if self.ranks.tell(ours) != ours:
            expected = f"the leader's expert on every rank in experience {self.experience + 1}"
            got = f"another expert ({expert.name!r}) on rank {self.ranks.rank}"
            remedy = "give all ranks the same stream"
            raise StreamError(expected=expected, got=got, remedy=remedy)
        for tensor in self.student.state_dict().values():
            self.ranks.share(tensor)

    def _check_length(self, length: int) -> None:
        if length == 0 or length < self.experience:
            expected = f"a stream of at least {max(1, self.experience)} expert(s)"
            remedy = "give the whole stream, including the experts that were learned before"
            raise StreamError(expected=expected, got=str(length), remedy=remedy)

    def _generate(self, expert: Expert, number: int, count: int) -> Samples:
        """Line 3 of Algorithm 1. After a failure, the learner can learn from another expert."""
        strategy = self.strategy
        if self._run.phase == "idle":
            self._run.phase = "generation"
            self._checkpoint()

        def after_step(done: int, total: int, state: Callable[[], State]) -> None:
            self._emit(events.GenerationProgress(number, done, total, count))
            if done < total:
                self._checkpoint_step(done, lambda: {"generation": state()})

        state = {name: tensor.to(self.device) for name, tensor in self._restored.pop("generation", {}).items()}
        journal = _Journal(state or None, after_step)
        context = GenerationContext(
            strategy.prior,
            strategy.augmentation,
            journal,
            number,
            self._memory,
            self.execution,
            self.ranks,
            self._start(),
        )
        try:
            new = strategy.generator(expert, count, derive_seed(self.seed, "generation", number), context)
            check_samples(new, expert, count, strategy.generator)
        except BaseException as error:
            self._run.dismiss()
            failed = raised_in_module(error)  # for images that no check has tried
            if failed or isinstance(error, (ExpertError, ShapeError, NonFiniteError)):
                self._checkpoint()  # a resumed run may get another expert
            if failed:
                expected = f"forward passes of expert {expert.name!r} in {type(strategy.generator).__name__}"
                with guarded(expert.module, expected, "correct the images, or leave this expert out of the stream"):
                    raise
            raise
        new = new.of_experience(number).to(self.device)
        for tensor in new.state().values():  # ranks may differ in the last bits
            self.ranks.share(tensor)
        return new

    def _checkpoint_step(self, done: int, groups: Callable[[], Mapping[str, State]]) -> None:
        """Write a checkpoint if one is due or a stop was requested; then stop if requested."""
        stopping = self._stopping(self._due(done))
        if stopping or self._due(done):
            self._checkpoint(groups)
        if stopping:
            raise _Stopped

    def _due(self, done: int) -> bool:
        return done % (EVERY if self._folder is None else self._folder.every) == 0

    def _stopping(self, due: bool = True) -> bool:
        """Whether to stop here. Several ranks communicate only where a checkpoint is due."""
        if self.stop is None or self.ranks.alone:
            return self.stop is not None and self.stop.asked
        if due:
            asked = torch.tensor(int(self.stop.asked))
            self.ranks.share(asked)  # unlike leader_says, a collective times out if the leader hangs
            due = bool(asked)
        return due

    def _begin_distillation(self, expert: Expert, number: int, new: Samples, share: int) -> None:
        """Lines 4 and 5 of Algorithm 1, and the initial student of the experience."""
        draws = make_generator(self.device, self.seed, "buffer", number)
        if self.strategy.training.stored:
            if self.strategy.training.views:
                seed = derive_seed(self.seed, "buffer", number)
                new = views_of(new, self.strategy.augmentation, share, seed=seed)
            new = self._with_logits(new)
        self._memory = updated(self.strategy.buffer, self._memory, new, draws)
        if self.strategy.training.stored:
            teachers = self._teachers(self._calibrated(expert), self.student if number > 1 else None)
            self._memory = store_logits(self._memory, teachers, self.execution)
            self.ranks.share(self._memory.state()["logits"])
        self._emit(events.BufferUpdated(number, new, self._memory))
        self._restored = {"previous": copy.deepcopy(self.student.state_dict())} if number > 1 else {}
        if self._initial is not None:
            self.student.load_state_dict(self._initial)
        if self.strategy.student == "first-expert" and number == 1:
            copy_expert(expert, self.student, self._classes)
        self._run.phase, self._run.steps = "distillation", 0
        if self._folder is not None and self.ranks.leader:
            self._run.memory = self._folder.write_memory({"memory": self._memory.state(), **self._restored})
        self._checkpoint()
        if self._stopping():
            raise _Stopped

    def _distill(self, expert: Expert, number: int) -> None:
        """Lines 6 to 12 of Algorithm 1."""
        strategy, training = self.strategy, self.strategy.training
        self._loss = None
        if strategy.student == "first-expert" and number == 1 and strategy.calibration is None:
            return
        module = None
        if number > 1:
            module = copy.deepcopy(self.student)
            module.load_state_dict(self._restored["previous"])
            module.eval().requires_grad_(False)
        seed, start = derive_seed(self.seed, "distillation", number), self._run.steps
        if not training.stored:
            expert = self._calibrated(expert)
        hints = hints_for(self.student, expert, self.memory, training, seed)
        optimizer = training.make_optimizer(self.student if hints is None else nn.ModuleList((self.student, hints)))
        if "optimizer" in self._restored:
            load_optimizer(optimizer, self._restored.pop("optimizer"))
            if hints is not None:
                hints.load_state_dict(self._restored.pop("hints", {}))

        def state() -> dict[str, State]:
            trained = {} if hints is None else {"hints": hints.state_dict()}
            return {"optimizer": optimizer_state(optimizer), **trained}

        def after_step(done: int, loss: Scalar) -> None:
            self._run.steps, last, self._loss = done, done == training.iterations, loss
            self._emit(events.DistillationProgress(number, done, training.iterations, loss, training.batch_size))
            if (last or self._due(done)) and not bool(loss.isfinite()):
                got = f"{loss.item()} at step {done} of experience {number}"
                remedy = "lower the learning rate or clip the gradient (clip_norm)"
                raise NonFiniteError(expected="a finite loss", got=got, remedy=remedy)
            if not last:
                self._checkpoint_step(done, state)

        teachers = self._teachers(expert, module)
        context = DistillationContext(seed, optimizer, start, after_step, self.execution, hints, self.ranks)
        loss, augment = strategy.loss, strategy.augmentation
        distill(
            self.student, teachers, self.memory, loss=loss, training=training, augmentation=augment, context=context
        )
        check_finite(self.student, "the student")

    def _teachers(self, expert: Expert, module: nn.Module | None) -> Teachers:
        """The two teachers of this experience; ``module`` has the weights of the previous student."""
        previous = None if module is None else self._run.previous(module, self._classes, self.device)
        strategy = self.strategy
        margin = strategy.training.margin
        return Teachers(previous, expert, strategy.normalizer, strategy.combiner, self._classes, margin)

    def _calibrated(self, expert: Expert) -> Expert:
        calibration = self.strategy.calibration
        if calibration is None:
            return expert
        # One seed for all experts: on the same drawings, their scales do not depend on their order.
        return calibration(expert, derive_seed(self.seed, "calibration"), self._start())

    def _start(self) -> State | None:
        """Weights to compare this expert with."""
        return (self._starts.weights() or None) if self.start is None else self.start

    @torch.no_grad()
    def _with_logits(self, new: Samples) -> Samples:
        """New samples with the logits of the previous student; zeros in the first experience."""
        logits = new.images.new_zeros(len(new), self._classes)
        if self.experience > 0:
            with frozen(self.student):
                batches = new.pixels().split(inference_batch_size(new.images.shape[1:]))
                logits = torch.cat([logits_of(self.student(batch)) for batch in batches])
        return attrs.evolve(new, logits=logits)

    def _emit(self, event: events.Event) -> None:
        for observer in self.observers:
            observer(event)

    def _open(self, folder: CheckpointFolder | Path | str) -> CheckpointFolder:
        identity(self.strategy, self.seed)  # a strategy that cannot be stored fails before any work
        self._folder = CheckpointFolder.of(folder)
        return self._folder

    def _checkpoint(self, groups: Callable[[], Mapping[str, State]] = dict) -> None:
        if self._folder is None:
            return
        check_finite(self.student, "the student")
        states = {"student": self.student.state_dict(), "screening": self._panel.state(), **groups()}
        if starts := self._starts.state():
            states["starts"] = starts
        if self._initial is not None:
            states["initial"] = self._initial
        if self.ranks.leader:
            if self._unsaved:
                self._folder.append(self._run, self._unsaved)
                self._unsaved = []
            self._folder.write(identity(self.strategy, self.seed), self._run, states)
        self._emit(events.CheckpointWritten(self.experience, self._folder.file))


class _Stopped(BaseException):
    """Leaves a hot loop; not an Exception, so that no component catches it."""


@attrs.frozen
class _Journal:
    """Forwards the progress of a generator to the learner."""

    state: State | None
    on_record: Callable[[int, int, Callable[[], State]], None]

    def restore(self) -> State | None:
        return self.state

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        self.on_record(done, total, state)
