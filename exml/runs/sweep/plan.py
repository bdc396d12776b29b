"""The plan of a sweep: its runs, their status, and the time that they will take."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import torch
from rich import box
from rich.table import Table

from exml import scenarios
from exml.core.errors import CheckpointError, ExmlError, SettingError
from exml.core.imports import import_all
from exml.core.records import read_record
from exml.learning.preflight import share_of
from exml.learning.strategy import Strategy
from exml.recipes import for_scenario
from exml.runs.forecast import duration
from exml.runs.record import RECORD, Record, read_result
from exml.runs.run import TAKEN, forecasts
from exml.runs.sources import ScenarioExperts
from exml.runs.sweep.sweep import Choice, Sweep, is_file

Status: TypeAlias = Literal["new", "begun", "failed", "done"]
"""Status of a run: ``"begun"`` was stopped before its end, ``"failed"`` ended with an error."""
Times: TypeAlias = Mapping[tuple[str, str], float | None]
"""Seconds of one run by scenario and combination; see :func:`sweep_forecast`."""
LONGEST = 120
"""Maximum length of a folder's name before its digest."""


@attrs.frozen(kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Args:
        name: of its folder in ``runs/``, made of everything that is varied.
        scenario: its name.
        strategy: name of the strategy.
        fields: values of the varied fields, as plain data.
        seed: of the run.
        parts: the strategy with these values; None for a run that measures only the baselines.
        status: of the run.
    """

    name: str
    scenario: str
    strategy: str
    fields: Mapping[str, Any]
    seed: int
    parts: Strategy | None
    status: Status = "new"

    @property
    def combination(self) -> str:
        """Strategy and fields as text, the same for runs of a scenario that differ only in the seed."""
        return label_of(self.strategy, self.fields)

    @property
    def title(self) -> str:
        """Everything that is varied as text."""
        return f"{self.scenario} {self.combination} seed {self.seed}"


@attrs.frozen
class Plan:
    """The runs of a sweep, in the order in which they are started.

    Args:
        sweep: what is planned.
        runs: every scenario, strategy, combination of fields and seed; the seed varies fastest.
    """

    sweep: Sweep
    runs: tuple[PlannedRun, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The paths of all varied fields."""
        return tuple(dict.fromkeys(path for run in self.runs for path in run.fields))

    def count(self, status: Status) -> int:
        """The number of runs with a status."""
        return sum(run.status == status for run in self.runs)

    def left(self, *, retry_failed: bool = False) -> tuple[PlannedRun, ...]:
        """The runs that remain to be carried out."""
        over = {"done"} if retry_failed else {"done", "failed"}
        return tuple(run for run in self.runs if run.status not in over)


def plan(sweep: Sweep, out: Path | str | None = None) -> Plan:
    """Build every strategy of a sweep and read the status of its runs, before any work begins.

    Args:
        sweep: to plan; its modules are imported.
        out: its folder, if it was begun; nothing is written there.

    Raises:
        ExmlError: an unknown scenario or strategy, a field that a strategy does not have, a value that it refuses, a
            run listed twice, or a folder with runs of other strategies under the same names.

    >>> from exml.runs.sweep import Sweep, plan
    >>> fields = {"training.iterations": (5, 9)}
    >>> sweep = Sweep(scenarios=("digits-nc",), strategies=("exml",), seeds=(0, 1), fields=fields)
    >>> for run in plan(sweep).runs:
    ...     print(run.title)
    digits-nc exml training.iterations=5 seed 0
    digits-nc exml training.iterations=5 seed 1
    digits-nc exml training.iterations=9 seed 0
    digits-nc exml training.iterations=9 seed 1
    """
    import_all(sweep.imports)
    choices = [Choice(choice) if isinstance(choice, str) else choice for choice in sweep.strategies]
    names = _names(choices)
    runs: dict[str, PlannedRun] = {}
    for scenario in sweep.scenarios:
        length = len(scenarios.load(scenario, sweep.seeds[0], sweep.split).experiences)
        for choice, strategy in zip(choices, names, strict=True):
            bases = {seed: _base(choice.strategy, scenario, seed).to_dict() for seed in sweep.seeds}
            grid = {**sweep.fields, **choice.fields}
            for *values, seed in itertools.product(*grid.values(), sweep.seeds):
                fields = dict(zip(grid, values, strict=True))
                run = PlannedRun(
                    name=_folder_name(scenario, strategy, fields, seed),
                    scenario=scenario,
                    strategy=strategy,
                    fields=fields,
                    seed=seed,
                    parts=_made(bases[seed], strategy, fields, length),
                )
                if run.name in runs:
                    raise SettingError(expected="each run once", got=f"{run.title} twice", remedy="list no value twice")
                runs[run.name] = run if out is None else attrs.evolve(run, status=_status(run, sweep, Path(out)))
    return Plan(sweep, tuple(runs.values()))


def _names(choices: Sequence[Choice]) -> list[str]:
    """The name of each choice; a file's name is that of its strategy."""
    origin: dict[str, str] = {}
    names: list[str] = []
    for choice in choices:
        name = Path(choice.strategy).stem if is_file(choice.strategy) else choice.strategy
        if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
            expected = "names of strategies that a folder can have and that a run does not use itself"
            raise SettingError(expected=expected, got=repr(name), remedy="rename the file")
        if origin.setdefault(name, choice.strategy) != choice.strategy:
            got = f"{origin[name]} and {choice.strategy}, both {name!r}"
            raise SettingError(expected="strategies with different names", got=got, remedy="rename one of the files")
        names.append(name)
    return names


def _base(strategy: str, scenario: str, seed: int) -> Strategy:
    return Strategy.load(strategy) if is_file(strategy) else for_scenario(strategy, scenario, seed).build()


def _made(base: Any, strategy: str, fields: Mapping[str, Any], experts: int) -> Strategy:
    """A strategy with its fields set, whose buffer has room for all experts."""
    plain = copy.deepcopy(base)
    for path, value in fields.items():
        _set_field(plain, path, value, strategy)
    try:
        made = Strategy.from_dict(plain)
        share_of(made.buffer, experts)
    except ExmlError as error:
        values = ", ".join(f"{path} = {show(value)}" for path, value in fields.items())
        expected = f"{error.expected} in strategy {strategy!r}{' with ' if values else ''}{values}"
        raise SettingError(expected=expected, got=error.got, remedy=error.remedy) from None
    return made


def _set_field(plain: Any, path: str, value: Any, strategy: str) -> None:
    """Set a value of a strategy in plain form at a path such as ``prior.priors[0].weight``."""
    if not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*", path):
        expected = "the path of a field, such as training.iterations or prior.priors[0].weight"
        raise SettingError(expected=expected, got=repr(path), remedy="correct it")
    *steps, last = [key or int(place) for key, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    holder, part, walked = plain, plain, ""
    for step in [*steps, last]:
        if step not in (part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()):
            has = f"has the fields {', '.join(part)}" if isinstance(part, dict) else f"is {part!r}"
            expected = f"a field of strategy {strategy!r}, where {walked or 'it'} {has}"
            remedy = "correct the path, or set the field only for the strategies that have it"
            raise SettingError(expected=expected, got=repr(path), remedy=remedy)
        walked = f"{walked}[{step}]" if isinstance(step, int) else f"{walked}.{step}".lstrip(".")
        holder, part = part, part[step]
    holder[last] = copy.deepcopy(value)


def show(value: Any) -> str:
    """A value as short text: JSON, except for strings, which have no quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def label_of(strategy: str, fields: Mapping[str, Any]) -> str:
    """Strategy and fields as text."""
    return " ".join([strategy, *(f"{name}={show(value)}" for name, value in fields.items())])


def _folder_name(scenario: str, strategy: str, fields: Mapping[str, Any], seed: int) -> str:
    """All that is varied; with a digest if it is too long or has characters that a folder's name should not have."""
    whole = "--".join(
        [scenario, strategy, *(f"{path}={show(value)}" for path, value in fields.items()), f"seed={seed}"]
    )
    name = re.sub(r"[^\w.=+-]+", "_", whole)
    if name == whole and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}--{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def failure_file(folder: Path, name: str) -> Path:
    """The file with a run's failure: its message in the first line, the details below."""
    return folder / "failures" / f"{name}.txt"


def _status(run: PlannedRun, sweep: Sweep, out: Path) -> Status:
    folder = out / "runs" / run.name
    begun = (folder / RECORD).exists()
    if begun and run.parts is not None:
        request = read_record(folder / RECORD, Record).request
        same = {
            "strategy": request.strategies == {run.strategy: run.parts.to_dict()},
            "split": request.split == sweep.split,
        }
        for what in (name for name, equal in same.items() if not equal):
            expected, remedy = f"the {what} that the run in {folder} was begun with", "sweep into another folder"
            raise CheckpointError(expected=expected, got="another one", remedy=f"{remedy}, or undo the change")
    if read_result(folder) is not None:
        return "done"
    return "failed" if failure_file(out, run.name).exists() else "begun" if begun else "new"


def sweep_forecast(sweep: Sweep, left: Sequence[PlannedRun]) -> dict[tuple[str, str], float | None]:
    """Time a few steps of each remaining strategy on this machine, with the threads of a run and one of the seeds.

    Returns:
        Seconds of generation and distillation in one run, by scenario and combination; None if it cannot be measured
        here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(sweep.resources.cpus)
    try:
        one_of_each = {(run.scenario, run.combination): run for run in reversed(left)}
        return {kind: _seconds(run, sweep) for kind, run in one_of_each.items()}
    finally:
        torch.set_num_threads(threads)


def _seconds(run: PlannedRun, sweep: Sweep) -> float | None:
    if run.parts is None:
        return 0.0
    source = ScenarioExperts(run.scenario, sweep.split)
    try:
        return forecasts(source, {run.strategy: run.parts}, sweep.settings(run.seed))[run.strategy].seconds
    except Exception:  # the run itself reports what is wrong with its strategy
        return None


def plan_table(plan: Plan, seconds: Times) -> Table:
    """One line per scenario and combination: runs, their status, and the time of one by :func:`sweep_forecast`."""
    table = new_table("runs", "done", "failed", "one run")
    for kind in dict.fromkeys((run.scenario, run.combination) for run in plan.runs):
        runs = [run for run in plan.runs if (run.scenario, run.combination) == kind]
        counts = [str(sum(run.status == status for run in runs)) for status in ("done", "failed")]
        known = seconds.get(kind)
        time = "" if kind not in seconds or runs[0].parts is None else "?" if known is None else duration(known)
        table.add_row(*kind, str(len(runs)), *counts, time)
    return table


def plan_line(plan: Plan, left: Sequence[PlannedRun], seconds: Times, workers: int | None) -> str:
    """The plan in one sentence, with the remaining runs, their time by :func:`sweep_forecast`, and runs at a time."""
    counts = [f"{plan.count(status)} {status}" for status in ("done", "begun", "failed") if plan.count(status)]
    line = f"{len(plan.runs)} run(s){', of which ' if counts else ''}{', '.join(counts)}; {len(left)} to do"
    times = [seconds[run.scenario, run.combination] for run in left]
    known = [time for time in times if time is not None]
    if known:
        line += f": about {duration(sum(known))} of generation and distillation"
        if workers is not None and workers > 1:
            line += f", {duration(max(sum(known) / workers, *known))} with {workers} at a time"
    if len(known) < len(times):
        line += f"; {len(times) - len(known)} run(s) cannot be measured here"
    return f"{line}."


def new_table(*right: str) -> Table:
    """A table with columns for scenario and strategy, and further columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("strategy")
    for head in right:
        table.add_column(head, justify="right", no_wrap=True)
    return table
