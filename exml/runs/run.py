"""A whole run from Python: what ``exml run`` calls."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
from torch import nn

from exml.core.errors import CheckpointError, ExmlWarning, SettingError, shortened, warn
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks
from exml.core.validators import in_range, positive_int
from exml.distributed import local_device
from exml.experts import ExpertProfile
from exml.learning.events import Event, Observer, WaitingForProcess
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.recipes import at_budget
from exml.runs._stages import RunContext, carry_out
from exml.runs.environment import device_of, environment
from exml.runs.forecast import Forecast, duration, forecast
from exml.runs.record import Request, RunFolder, begun
from exml.runs.result import Result
from exml.runs.sources import OpenExperts, ScenarioExperts, Source

TAKEN = (
    *("experts", "checkpoint", "run.json", "result.json", "plan.yaml", "accuracy.png", "stream.jsonl", "log"),
    *("README.md", "config.json", "preprocessor_config.json", "model.safetensors"),
)
"""Names in the folder of a run that no strategy may have."""
Choice: TypeAlias = Strategy | Callable[[ExpertProfile, nn.Module], Strategy]
"""A strategy, or a function that chooses one, given the profile of the experts and the student."""


@attrs.frozen
class RunSettings:
    """How a run is carried out.

    Args:
        seed: of everything random: the scenario, its experts and the students, which is the same for all strategies.
        device: as torch names it; ``"auto"`` is an accelerator if there is one.
        execution: whether the hot loops are compiled or captured, and their precision.
        checkpoint_every: steps of generation, or of distillation, between two checkpoints.
        forecasts: what :func:`forecasts` returned, to be recorded next to the time that the run takes.
    """

    seed: int = attrs.field(default=0, validator=in_range(0, integer=True))
    device: str = "cpu"
    execution: Execution = EAGER
    checkpoint_every: int = attrs.field(default=1_000, validator=positive_int())
    forecasts: Mapping[str, Forecast] = attrs.field(factory=dict[str, Forecast])


ATTEMPTS = 5
"""The most forecasts until a strategy fits a budget."""
DEFAULT = RunSettings()
"""Seed 0 on the CPU."""


def run(
    source: Source,
    strategies: Mapping[str, Choice],
    out: Path | str,
    *,
    settings: RunSettings = DEFAULT,
    resume: bool = False,
    stop: Stop | None = None,
    observers: Sequence[Observer] = (),
    ranks: Ranks = ALONE,
) -> Result:
    """Learn from the experts of a source with each strategy; with a scenario, compare the students with the baselines.

    The folder gets ``run.json`` (the request), ``result.json`` (:class:`Result`), ``accuracy.png`` and ``experts/`` of
    a scenario, and per strategy ``student.safetensors`` with its card after every experience
    (:func:`exml.experts.load_expert` reads them), ``stream.jsonl`` (which experts were learned in which order, with
    seconds and last loss), ``samples.png`` and ``checkpoint/``. Several strategies have a folder each; without a
    scenario, the student of :attr:`Result.preferred` is also saved in the folder of the run. Every file is written
    atomically. Neither memory nor the cost of an expert grows with the length of the stream.

    A run that was killed at any moment continues with ``resume=True``. On the CPU, with the same number of threads
    (:func:`torch.get_num_threads`), its students equal those of an uninterrupted run bit for bit, and so does its
    result apart from the seconds. A finished run over a folder learns from the experts that were added since. Damaged
    files are found by their checksums. Those that follow from others are made again; ``run.json`` and the checkpoint
    are refused.

    Args:
        source: where the experts come from.
        strategies: by name; a name is also the name of a folder. A function in place of a strategy is called once, when
            the run starts. A scenario may have no strategies, only baselines.
        out: the folder; new or empty, unless the run is resumed.
        settings: seed, device, execution, checkpoints.
        resume: continue the run in the folder, with the same source, strategies and settings, except for
            ``checkpoint_every`` and the paths of experts. A finished run over a scenario is only verified. The
            process waits for another one that still works on the run.
        stop: stops the run cleanly: at once while it waits, otherwise after the current step, which is then in the
            checkpoint. For one run.
        observers: called with every event, by the leader of the ranks.
        ranks: from :func:`exml.distributed.join`. All ranks call this with the same arguments and must see the same
            folders. Only the leader writes, except for the experts of a scenario: each rank trains some of them. A run
            may resume with another number of ranks.

    Raises:
        SettingError: invalid names, a device that does not work, or several ranks that follow a folder.
        CheckpointError: the folder holds something already, or nothing to resume, or cannot be written; its
            record or a checkpoint is damaged.
        BufferSizeError: a buffer is too small for the length of the stream.
        ExmlError: the source, or :class:`exml.Learner`, refuses something.
    """
    out, stop = Path(out), Stop() if stop is None else stop
    _check(source, strategies, ranks)
    device = device_of(settings.device)
    own = local_device(device, ranks)
    record = begun(out, resume=resume) if resume or ranks.leader else None
    opened = source.open(settings.seed, out, stop, record)
    if opened is None:
        return Result(scenario=None, seed=settings.seed, split=None, stopped=True)
    known = {} if record is None else record.request.strategies
    chosen = {name: _chosen(choice, opened, settings.seed, known.get(name)) for name, choice in strategies.items()}
    plain = {name: strategy.to_dict() for name, strategy in chosen.items()}
    request = Request(plain, settings.seed, str(device), settings.execution, **opened.asked)

    def observer(event: Event, /) -> None:
        for observe in observers if ranks.leader else ():
            observe(event)

    on_wait = partial(observer, WaitingForProcess(out)) if resume else None
    labels = None if request.student is None else opened.labels
    with RunFolder(out, request, environment(own, settings.execution, ranks), on_wait, ranks, labels) as folder:
        if changed := folder.changed() if ranks.leader else []:
            names = shortened(", ".join(changed), 300)
            message = (
                f"files in {out} were changed or lost since the run ended, and are made again if possible: {names}"
            )
            warnings.warn(message, ExmlWarning, stacklevel=2)
        ended = bool(opened.tests and folder.record.files) and not changed
        if ranks.leader_says(ended and not Result.load(folder.result).stopped):
            return Result.load(folder.result)
        if request.student is not None:
            opened.relabel(folder.record.labels)  # another process may have gone further
            folder.keep(opened.labels)
        for name, expected in settings.forecasts.items():
            folder.record.strategies[name].forecast = expected
        context = RunContext(opened, folder, own, settings.checkpoint_every, stop, observer, ranks)
        try:
            return carry_out(context, {name: chosen[name] for name in folder.record.request.strategies})
        except BaseException:
            with suppress(CheckpointError):  # the first error is the one to report
                folder.save()
            raise
        finally:
            opened.close()


def forecasts(source: Source, strategies: Mapping[str, Choice], settings: RunSettings = DEFAULT) -> dict[str, Forecast]:
    """Forecast how long each strategy of a run will take on this machine; see :func:`forecast`.

    Args:
        source: a scenario, or a folder that is not followed, since the length of the stream must be known.
        strategies: as for :func:`run`.
        settings: as for :func:`run`.

    Raises:
        ExmlError: :func:`run` would refuse the arguments.
    """
    _check(source, strategies, ALONE)
    opened = source.open(settings.seed, None, Stop(), None)
    if opened is None:
        raise SettingError(expected="a stream of known length", got="a followed folder", remedy="do not follow it")
    return {name: schedule(opened, choice, settings)[1] for name, choice in strategies.items()}


def schedule(
    source: OpenExperts, choice: Choice, settings: RunSettings = DEFAULT, seconds: float | None = None
) -> tuple[Strategy, Forecast]:
    """Choose a strategy and forecast how long it will take; :func:`exml.recipes.at_budget` makes it fit a budget.

    Args:
        source: experts whose number is known.
        choice: the strategy, or a function that chooses it.
        settings: as for :func:`run`.
        seconds: the budget for generation and distillation; None keeps the strategy.

    Raises:
        SettingError: more experts may arrive.
        ExmlError: :func:`run` would refuse the arguments.
    """
    length = source.length(())
    if length is None:
        remedy = "do not follow it, or leave the budget out"
        raise SettingError(expected="a stream of known length", got="a followed folder", remedy=remedy)
    whole = strategy = _chosen(choice, source, settings.seed, None)
    example, student = source.example(), source.make_student(settings.seed).to(device_of(settings.device))
    predict = partial(forecast, experts=length, execution=settings.execution)
    found, share = predict(strategy, example, student), 1.0
    for _ in range(ATTEMPTS):
        if seconds is None or found.seconds <= seconds:
            break
        share *= max(0.9 * seconds / found.seconds, 1e-3)  # what does not shrink leaves less for the rest
        strategy = at_budget(whole, share)
        found = predict(strategy, example, student)
    if seconds is not None and found.seconds > seconds:
        got, remedy = duration(found.seconds), "increase the budget, or name a smaller student"
        warn(f"a strategy that takes {duration(seconds)} at most", got, remedy)
    source.check(strategy)
    return strategy, found


def _check(source: Source, strategies: Mapping[str, Choice], ranks: Ranks) -> None:
    follows = source.names is None if isinstance(source, OpenExperts) else getattr(source, "follow", False)
    invalid = [name for name in strategies if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN]
    if not strategies and not (isinstance(source, ScenarioExperts) and source.baselines):
        problem = "at least one strategy, or the baselines of a scenario", "neither"
    elif invalid:
        problem = "strategies with names that a folder can have, and that a run does not use itself", repr(invalid[0])
    elif follows and len(strategies) > 1:
        problem = "one strategy to follow a folder", ", ".join(strategies)
    elif follows and not ranks.alone:
        problem = "one process to follow a folder", f"{ranks.size} ranks"
    else:
        return
    raise SettingError(expected=problem[0], got=problem[1], remedy="correct it")


def _chosen(choice: Choice, source: OpenExperts, seed: int, begun_with: object | None) -> Strategy:
    """The strategy itself, checked; a function is not called again when a run is resumed."""
    if isinstance(choice, Strategy):
        strategy = choice
    elif begun_with is not None:
        strategy = Strategy.from_dict(begun_with)
    else:
        strategy = choice(source.profile(), source.make_student(seed))
    source.check(strategy)
    return strategy
