"""What a sweep will do: its runs, and how far each is."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
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

Status: TypeAlias = Literal["new", "begun", "failed", "done"]
"""How far a run is: ``"begun"`` was stopped before its end, ``"failed"`` ended with an error."""
LONGEST = 120
"""Characters of a folder's name; longer ones are cut."""


@attrs.frozen(kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Args:
        name: of its folder in ``runs/``; says all that is varied.
        scenario: its name.
        strategy: name of the strategy.
        fields: of the strategy that are varied, with their values as plain data.
        seed: of the run.
        parts: the strategy with these values; None for a run that measures the baselines alone.
        experts: how many there are in the scenario.
        status: how far it is.
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
        """Strategy and fields as text, what runs of a scenario that differ in the seed alone have in common."""
        return " ".join([self.strategy, *(f"{path}={show(value)}" for path, value in self.fields.items())])

    @property
    def title(self) -> str:
        """All of it as text."""
        return f"{self.scenario} {self.combination} seed {self.seed}"


@attrs.frozen
class Plan:
    """The runs of a sweep, in the order in which they are begun.

    Args:
        sweep: what is planned.
        runs: every scenario, strategy, combination of fields and seed, the seed varying fastest.
    """

    sweep: Sweep
    runs: tuple[PlannedRun, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The paths of all fields that are varied."""
        return tuple(dict.fromkeys(path for run in self.runs for path in run.fields))

    def count(self, status: Status) -> int:
        """How many runs are so far."""
        return sum(run.status == status for run in self.runs)

    def left(self, *, retry_failed: bool = False) -> tuple[PlannedRun, ...]:
        """The runs that there is something to do for."""
        over = {"done"} if retry_failed else {"done", "failed"}
        return tuple(run for run in self.runs if run.status not in over)


def plan(sweep: Sweep, out: Path | str | None = None) -> Plan:
    """Make every strategy of a sweep and see what its folder has of it, before any work begins.

    Args:
        sweep: to be planned; its modules are imported.
        out: its folder, if it was begun; nothing is written there.

    Raises:
        ExmlError: a scenario or strategy that is not there, a field that a strategy does not have or a value that it
            refuses, the same run twice, or a folder with runs of other strategies under these names.

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
            for values in itertools.product(*grid.values()):
                fields = dict(zip(grid, values, strict=True))
                for seed in sweep.seeds:
                    parts = _made(bases[seed], strategy, fields, length)
                    run = PlannedRun(
                        name="",
                        scenario=scenario,
                        strategy=strategy,
                        fields=fields,
                        seed=seed,
                        parts=parts,
                        experts=length,
                    )
                    run = attrs.evolve(run, name=_folder_name(run))
                    if run.name in runs:
                        raise SettingError(
                            expected="each run once", got=f"{run.title} twice", remedy="list no value twice"
                        )
                    runs[run.name] = run
    if out is not None:
        return Plan(sweep, tuple(attrs.evolve(run, status=_status(run, sweep, Path(out))) for run in runs.values()))
    return Plan(sweep, tuple(runs.values()))


def _names(choices: list[Choice]) -> list[str]:
    """Of each choice's strategy; a file's is that of the file."""
    origin: dict[str, str] = {}
    names: list[str] = []
    for choice in choices:
        name = Path(choice.strategy).stem if is_file(choice.strategy) else choice.strategy
        if not re.fullmatch(r"\w[\w.-]*", name) or name in TAKEN:
            raise SettingError(
                expected="strategies with names that a folder can have, and that a run does not use itself",
                got=repr(name),
                remedy="rename the file",
            )
        if origin.setdefault(name, choice.strategy) != choice.strategy:
            raise SettingError(
                expected="strategies with names of their own",
                got=f"{origin[name]} and {choice.strategy}, both {name!r}",
                remedy="rename one of the files",
            )
        names.append(name)
    return names


def _base(strategy: str, scenario: str, seed: int) -> Any:
    """A strategy as plain data, before its fields are set; a recipe looks at the scenario."""
    made = Strategy.load(strategy) if is_file(strategy) else for_scenario(strategy, scenario, seed).build()
    return made.to_dict()


def _made(base: Any, strategy: str, fields: Mapping[str, Any], experts: int) -> Strategy:
    """A strategy with its fields set, fit for so many experts."""
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


def _folder_name(run: PlannedRun) -> str:
    """Readable where it can be; with a digest of the whole where it cannot."""
    fields = [f"{path}={show(value)}" for path, value in run.fields.items()]
    whole = "--".join([run.scenario, run.strategy, *fields, f"seed={run.seed}"])
    name = re.sub(r"[^\w.=+-]+", "_", whole)
    if name == whole and len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}--{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _status(run: PlannedRun, sweep: Sweep, out: Path) -> Status:
    folder = out / "runs" / run.name
    begun = (folder / "run.json").exists()
    if begun:
        request = read_record(folder / "run.json").request
        parts = {} if run.parts is None else {run.strategy: run.parts.to_dict()}
        asked = {"strategy": parts, "split": sweep.split}
        there = {"strategy": request.strategies, "split": request.split}
        for what, value in asked.items():
            if there[what] != value:
                raise CheckpointError(
                    expected=f"the {what} that the run in {folder} was begun with",
                    got="another one",
                    remedy="sweep into another folder, or undo the change",
                )
    if (folder / "result.json").exists():
        return "done"
    if (out / "failures" / f"{run.name}.txt").exists():
        return "failed"
    return "begun" if begun else "new"
