"""A run over a folder of other people's experts: what ``exml run --stream`` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch

from exml.core.errors import SettingError
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks
from exml.distributed import local_device
from exml.experts import ExpertCard, read_cards, read_expert
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.events import Event, Observer, WaitingForProcess
from exml.learning.learner import Learner
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.runs._environment import device_of, environment
from exml.runs._folder_watcher import Arrivals
from exml.runs._lock import lock, require_free
from exml.runs._stream_log import Ledger
from exml.runs._stream_record import StreamRequest
from exml.runs._stream_run import StreamWork
from exml.runs._student import plan_student
from exml.runs.stream_strategy import refuse_data


@attrs.frozen
class StreamResult:
    """What became of a run over a stream.

    Args:
        experiences: how many experts the student has learned from, in all.
        classes: the global ids that they know, ascending.
        stopped: whether it was told to stop before the end.
    """

    experiences: int
    classes: tuple[int, ...]
    stopped: bool


def run_stream(
    folder: Path | str,
    strategy: Strategy | Callable[[Mapping[str, ExpertCard]], Strategy],
    out: Path | str,
    *,
    name: str = "strategy",
    student: Mapping[str, Any] | None = None,
    classes: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    execution: Execution = EAGER,
    checkpoint_every: int = 1_000,
    resume: bool = False,
    follow: bool = False,
    poll: float = 1.0,
    stop: Stop | None = None,
    observers: Sequence[Observer] = (),
    ranks: Ranks = ALONE,
) -> StreamResult:
    """Learn one student from a folder of experts, in the order of their cards, else by name; there is no test data.

    The folder ``out`` gets ``student.safetensors`` with its card after every experience, ``samples.png`` at the end,
    ``checkpoint/``, ``stream.json`` (what the run was begun with) and ``stream.jsonl`` (what was learned in which
    order, with the seconds and the last loss). Lines are added to the last, so that a long stream costs no more an
    expert than a short one. A run that was killed, whenever that was, goes on with ``resume=True``: learned experts are
    not loaded again, the order of the others is what it was, and on the CPU the student will be that of a run that was
    never killed, bit for bit. A finished run that is resumed learns from the experts that were added since.

    Args:
        folder: of pairs ``NAME.json``, ``NAME.safetensors``.
        strategy: what to do; or a function that makes a strategy of the cards of the experts that are there, such as
            :func:`exml.runs.stream_strategy` with its name filled in. It is called once, as the run is begun.
        out: new or empty, unless the run is resumed.
        name: of the strategy.
        student: name and settings of its architecture in :mod:`exml.models`; what they do not say of ``channels``,
            ``classes`` and ``image_size`` is filled in. By default that of the first expert. It normalises its images
            as the first expert does.
        classes: its outputs; by default as many as the experts that are there have classes.
        seed: of everything random.
        device: as torch names it; ``"auto"`` is an accelerator if there is one.
        execution: whether the hot loops are compiled or captured, and their precision.
        checkpoint_every: steps of generation or distillation between two checkpoints.
        resume: go on with the run in ``out``; strategy, name, seed, device and execution must be those that it was
            begun with, and so must student and classes if they are given.
        follow: go on learning from experts that arrive in the folder, until it is told to stop. An expert that cannot
            be learned from is refused, and the run goes on; a pair that is not whole is waited for.
        poll: seconds between two looks at the folder.
        stop: stops the run cleanly when it is asked: at once while it waits, else after the step under way, which is
            then in the checkpoint. For one run.
        observers: told of every event, by the leader of the ranks.
        ranks: from :func:`exml.distributed.join`; all call with the same arguments, must see the same folders, and the
            leader alone writes. They cannot follow a folder.

    Raises:
        SettingError: a setting out of its range, or several ranks that are to follow a folder.
        StreamError: no experts in the folder, or a contradictory order.
        ExpertError: a faulty card, or (when its turn comes) weights that are not whole.
        ShapeError: experts with images of different shapes, or a student that does not take them.
        BufferSizeError: the buffer is too small for so many experts.
        CheckpointError: ``out`` holds something already, or nothing to resume, or cannot be written.
        ExmlError: whatever else :class:`exml.Learner` refuses.
    """
    folder, out = Path(folder), Path(out)
    stop = Stop() if stop is None else stop
    _check(seed, checkpoint_every, poll)
    if follow and not ranks.alone:
        raise SettingError(
            expected="one process to follow a folder",
            got=f"{ranks.size} ranks",
            remedy="call exml run without torchrun",
        )
    place = device_of(device)
    own = local_device(place, ranks)
    observers = observers if ranks.leader else ()
    asked: dict[str, Any] = {"name": name, "seed": seed, "device": str(place), "execution": execution}
    if isinstance(strategy, Strategy):
        refuse_data(strategy)
        asked["strategy"] = strategy.to_dict()
    if resume:
        request = StreamRequest.load(out / "stream.json")
        request.require_same(out, asked)
        request.student.require_same(out, student, classes)
    else:
        if ranks.leader:
            require_free(out, "stream.json", "run")
        request = None
    try:
        cards = None if follow else read_cards(folder)
        if request is None:
            found = Arrivals(folder, (), None, stop, poll).cards() if cards is None else cards
            if not found:
                return StreamResult(0, (), stopped=True)
            if not isinstance(strategy, Strategy):
                asked["strategy"] = strategy(found).to_dict()
            request = StreamRequest(student=plan_student(found, student, classes), **asked)
        chosen = Strategy.from_dict(request.strategy)
        request.student.make(seed)
        if cards is not None:
            for file, card in cards.items():
                request.student.check(file, card)
            chosen.buffer.share(len(cards))
        seen = attrs.asdict(environment(own, execution, ranks))
        opened = {"folder": str(folder), "follow": follow, "environment": seen}
        with ExitStack() as stack:
            if ranks.leader:
                stack.enter_context(lock(out, partial(_tell, observers, WaitingForProcess(out)) if resume else None))
                if not resume:
                    request.save(out / "stream.json")
                for part in out.rglob(".*.part"):  # what a killed process left half-written
                    part.unlink(missing_ok=True)
                (out / "stream.jsonl").touch()
            ranks.wait()
            with Ledger(out / "stream.jsonl", writes=ranks.leader) as ledger:
                ranks.wait()  # until all have read
                ledger.opened(opened)
                learner = _learner(request, chosen, out / "checkpoint", checkpoint_every, own, ranks)
                done, under_way = ledger.files[: learner.experience], ledger.files[learner.experience :]
                work = StreamWork(learner, request, out, ledger, stop, observers, leads=ranks.leader)
                if cards is None:
                    work(Arrivals(folder, done, next(iter(under_way), None), stop, poll), None)
                else:
                    left = dict.fromkeys([*under_way, *cards])
                    for file in done:
                        left.pop(file, None)
                    total = len(done) + len(left)
                    work(map(read_expert, [folder / f"{file}.json" for file in left]), total)
                return StreamResult(learner.experience, learner.classes_seen, work.stopped)
    finally:
        stop.ask()  # which ends the thread that waits for arrivals, too


def _learner(
    request: StreamRequest,
    strategy: Strategy,
    folder: Path,
    checkpoint_every: int,
    device: torch.device,
    ranks: Ranks,
) -> Learner:
    """A new one, or the one of the checkpoint."""
    begun = ranks.leader_says(CheckpointFolder(folder).exists())
    learner = Learner(
        strategy,
        request.student.make(request.seed).to(device),
        seed=request.seed,
        folder=None if begun else CheckpointFolder(folder, checkpoint_every),
        execution=request.execution,
        ranks=ranks,
    )
    return learner.resume(CheckpointFolder(folder, checkpoint_every)) if begun else learner


def _check(seed: int, checkpoint_every: int, poll: float) -> None:
    problem: tuple[str, object] | None = None
    if seed < 0:
        problem = "seed >= 0", seed
    elif checkpoint_every < 1:
        problem = "checkpoint_every >= 1", checkpoint_every
    elif not poll > 0:
        problem = "poll > 0", poll
    if problem is not None:
        raise SettingError(expected=problem[0], got=str(problem[1]), remedy="correct it")


def _tell(observers: Sequence[Observer], event: Event) -> None:
    for observer in observers:
        observer(event)
