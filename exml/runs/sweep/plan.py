"""The plan of a sweep: its runs and their status."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs

from exml import scenarios
from exml.core.errors import CheckpointError, ExmlError, SettingError
from exml.learning.strategy import Strategy
from exml.recipes import for_scenario
from exml.runs.record import read_record
from exml.runs.run import TAKEN
from exml.runs.sweep._fields import show, with_field
from exml.runs.sweep._imports import import_all
from exml.runs.sweep.sweep import Choice, Sweep, is_file
from exml.runs.sweep.task import failure_file

Status: TypeAlias = Literal["new", "begun", "failed", "done"]
"""Status of a run: ``"begun"`` was stopped before its end, ``"failed"`` ended with an error."""
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
        experts: number of experts in the scenario.
        status: of the run.
    """

    name: str
    scenario: str
    strategy: str
    fields: Mapping[str, Any]
    seed: int
    parts: Strategy | None
    experts: int
    status: Status = "new"

    @property
    def combination(self) -> str:
        """Strategy and fields as text, the same for runs of a scenario that differ only in the seed."""
        return " ".join([self.strategy, *_settings(self.fields)])

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
            bases = {seed: _base(choice.strategy, scenario, seed) for seed in sweep.seeds}
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
                    experts=length,
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
            raise SettingError(
                expected="names of strategies that a folder can have and that a run does not use itself",
                got=repr(name),
                remedy="rename the file",
            )
        if origin.setdefault(name, choice.strategy) != choice.strategy:
            raise SettingError(
                expected="strategies with different names",
                got=f"{origin[name]} and {choice.strategy}, both {name!r}",
                remedy="rename one of the files",
            )
        names.append(name)
    return names


def _base(strategy: str, scenario: str, seed: int) -> Any:
    """A strategy in plain form, before its fields are set."""
    made = Strategy.load(strategy) if is_file(strategy) else for_scenario(strategy, scenario, seed).build()
    return made.to_dict()


def _made(base: Any, strategy: str, fields: Mapping[str, Any], experts: int) -> Strategy:
    """A strategy with its fields set, whose buffer has room for all experts."""
    plain = base
    for path, value in fields.items():
        plain = with_field(plain, path, value, strategy)
    try:
        made = Strategy.from_dict(plain)
        made.buffer.share(experts)
    except ExmlError as error:
        values = ", ".join(f"{path} = {show(value)}" for path, value in fields.items())
        raise SettingError(
            expected=f"{error.expected} in strategy {strategy!r}{' with ' if values else ''}{values}",
            got=error.got,
            remedy=error.remedy,
        ) from None
    return made


def _settings(fields: Mapping[str, Any]) -> list[str]:
    return [f"{path}={show(value)}" for path, value in fields.items()]


def _folder_name(scenario: str, strategy: str, fields: Mapping[str, Any], seed: int) -> str:
    """All that is varied; with a digest if it is too long or has other characters than a folder's name."""
    whole = "--".join([scenario, strategy, *_settings(fields), f"seed={seed}"])
    name = re.sub(r"[^\w.=+-]+", "_", whole)
    if name == whole and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}--{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _status(run: PlannedRun, sweep: Sweep, out: Path) -> Status:
    folder = out / "runs" / run.name
    begun = (folder / "run.json").exists()
    if begun and run.parts is not None:
        request = read_record(folder / "run.json").request
        pairs = {
            "strategy": (request.strategies, {run.strategy: run.parts.to_dict()}),
            "split": (request.split, sweep.split),
        }
        for what, (there, asked) in pairs.items():
            if there != asked:
                raise CheckpointError(
                    expected=f"the {what} that the run in {folder} was begun with",
                    got="another one",
                    remedy="sweep into another folder, or undo the change",
                )
    if (folder / "result.json").exists():
        return "done"
    if failure_file(out, run.name).exists():
        return "failed"
    return "begun" if begun else "new"
