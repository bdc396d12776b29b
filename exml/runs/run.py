"""A whole run from Python: what ``exml run`` calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from exml import scenarios
from exml.core.errors import CheckpointError, SettingError
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks
from exml.distributed import local_device
from exml.learning.events import Observer, WaitingForProcess
from exml.learning.strategy import Strategy
from exml.runs._clock import Clock
from exml.runs._environment import device_of, environment
from exml.runs._folder import RunFolder
from exml.runs._record import Request
from exml.runs._scenario_run import Work
from exml.runs.result import Result

TAKEN = ("experts", "checkpoint", "run.json", "result.json", "accuracy.png")
"""What the folder of a run holds beside its strategies' folders."""


def run(
    scenario: str,
    strategies: Mapping[str, Strategy],
    out: Path | str,
    *,
    seed: int = 0,
    split: scenarios.Split = "test",
    device: str = "cpu",
    execution: Execution = EAGER,
    checkpoint_every: int = 1_000,
    resume: bool = False,
    experts: Path | str | None = None,
    baselines: bool = True,
    observers: Sequence[Observer] = (),
    ranks: Ranks = ALONE,
) -> Result:
    """Train the experts of a scenario, learn from them by each strategy, and compare the students with the baselines.

    The folder gets ``result.json`` (:class:`exml.runs.Result`), ``accuracy.png``, ``experts/``, and for each strategy
    ``student.safetensors`` with its card (:func:`exml.experts.load_expert` reads them), ``samples.png`` and
    ``checkpoint/``: in a folder of its own if there are several strategies. All is written atomically, ``result.json``
    at the end. A run that was killed, whenever that was, goes on with ``resume=True``; on the CPU its students will be
    those of a run that was never killed, bit for bit, and its result the same but for the seconds.

    Args:
        scenario: its name, one of :func:`exml.scenarios.names`.
        strategies: by name; the names are those of folders. There may be none, and the baselines are all there is.
        out: the folder; new or empty, unless the run is resumed.
        seed: of the scenario, the experts and the students; all strategies have the same one.
        split: what the accuracies are measured on; with ``"validation"`` no test image is looked at.
        device: as torch names it; ``"auto"`` is an accelerator if there is one.
        execution: whether the hot loops are compiled or captured, and their precision.
        checkpoint_every: steps of generation or distillation between two checkpoints.
        resume: go on with the run in the folder; the arguments must be those that it was begun with, but for
            ``checkpoint_every``. A finished run is read; one that another process is at work on is waited for.
        experts: folder of the experts, ``out/experts`` by default. Several runs of one scenario and seed may share it,
            also at the same time: the first trains, the others wait for it and load.
        baselines: measure them as well. They are the same for all runs of one scenario and seed.
        observers: told of every event, by the leader of the ranks.
        ranks: from :func:`exml.distributed.join`; all call with the same arguments, and must see the same folders. The
            leader alone writes, but for the experts, of which each rank trains some. A run may go on with another
            number of ranks.

    Raises:
        SettingError: a setting out of its range, or a device that is not there.
        UnknownNameError: no such scenario.
        CheckpointError: the folder holds something already, or nothing to resume, or cannot be written.
        ExmlError: whatever else :class:`exml.Learner` refuses.
    """
    _check(strategies, seed, checkpoint_every, baselines=baselines)
    loaded, place = scenarios.load(scenario, seed, split), device_of(device)
    own = local_device(place, ranks)
    plain = {name: strategy.to_dict() for name, strategy in strategies.items()}
    request = Request(scenario, plain, seed, split, str(place), execution)

    def on_wait() -> None:
        for observer in observers:
            observer(WaitingForProcess(Path(out)))

    seen = environment(own, execution, ranks)
    with RunFolder(Path(out), request, seen, resume=resume, on_wait=on_wait, ranks=ranks) as folder:
        if ranks.leader_says(folder.result.exists()):
            return Result.load(folder.result)
        clock = Clock(folder)
        try:
            shared = folder.path / "experts" if experts is None else Path(experts)
            told = observers if ranks.leader else ()
            work = Work(
                loaded, strategies, folder, shared, clock, own, checkpoint_every, told, ranks, baselines=baselines
            )
            return work()
        except BaseException:
            with suppress(CheckpointError):  # what went wrong first is what matters
                clock.save()
            raise


def _check(strategies: Mapping[str, Strategy], seed: int, checkpoint_every: int, *, baselines: bool) -> None:
    problem: tuple[str, str] | None = None
    bad = [name for name in strategies if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN]
    if not strategies and not baselines:
        problem = "at least one strategy, or the baselines", "neither"
    elif bad:
        problem = "strategies with names that a folder can have, and that a run does not use itself", repr(bad[0])
    elif seed < 0:
        problem = "seed >= 0", str(seed)
    elif checkpoint_every < 1:
        problem = "checkpoint_every >= 1", str(checkpoint_every)
    if problem is not None:
        raise SettingError(expected=problem[0], got=problem[1], remedy="correct it")
