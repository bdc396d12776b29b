"""The plan of a reproduction: its cells, their status, and those that cannot be measured here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from exml import scenarios
from exml.core.errors import DataError, SettingError, UnknownNameError
from exml.core.serialization import to_plain
from exml.learning.strategy import Strategy
from exml.recipes import at_budget
from exml.runs import ScenarioExperts, stream_folder
from exml.runs.jobs import one_line
from exml.runs.sweep import Plan, PlannedRun, Status, Sweep, Task, import_all, task_of
from reproduction.cell import Cell, in_full, read_cell
from reproduction.layout import BASELINES, PAPER_LAYOUT, Layout, TableRow
from reproduction.reproduction import FIGURES, Reproduction

IN_FIGURE_2 = ("model-inversion", "data-impression")
"""Strategies of Figure 2."""
NOT_IN_FIGURE_3 = (BASELINES, "noise")


@attrs.frozen
class PlannedCell:
    """One cell and its run.

    Args:
        cell: as far as it is known before the work.
        run: its name is that of a folder in ``runs/``, and has a digest of everything that the numbers depend on.
    """

    cell: Cell
    run: PlannedRun


@attrs.frozen
class ReproductionPlan:
    """The cells in the order in which they are started.

    Args:
        asked: the request.
        cells: scenario by scenario: the baselines of all seeds, then all strategies seed by seed.
        absent: why requested cells cannot be measured here, by column and row; all baselines are one row.
        wanted: columns and rows of the request.
        imports: modules that every process imports first.
    """

    asked: Reproduction
    cells: tuple[PlannedCell, ...]
    absent: Mapping[tuple[str, str], str]
    wanted: tuple[tuple[str, str], ...]
    imports: tuple[str, ...] = ()

    def seen_in(self, out: Path) -> ReproductionPlan:
        """The plan with the status of each cell in a folder."""
        cells = [
            attrs.evolve(planned, run=attrs.evolve(planned.run, status=_status(planned.cell, planned.run.name, out)))
            for planned in self.cells
        ]
        return attrs.evolve(self, cells=tuple(cells))

    def as_sweep(self) -> Plan:
        """The runs as those of a sweep."""
        runs = tuple(planned.run for planned in self.cells)
        asked = self.asked
        sweep = Sweep(
            scenarios=tuple(dict.fromkeys(run.scenario for run in runs)),
            strategies=tuple(dict.fromkeys(run.strategy for run in runs)),
            seeds=asked.seeds,
            device=asked.device,
            compile=asked.compile,
            precision=asked.precision,
            resources=asked.resources,
            imports=self.imports,
        )
        return Plan(sweep, runs)

    def tasks(self, out: Path) -> dict[str, tuple[Cell, Task]]:
        """The cells that remain to be measured, by the names of their runs; failed ones are among them."""
        if not self.cells:
            return {}
        sweep, found = self.as_sweep().sweep, dict[str, tuple[Cell, Task]]()
        experts = (out / "experts" if self.asked.experts is None else self.asked.experts).resolve()
        for planned in self.cells:
            run, cell = planned.run, planned.cell
            if run.status != "done":
                folder = experts / stream_folder(run.scenario, run.seed)
                source = ScenarioExperts(run.scenario, folder=folder, baselines=cell.is_baselines)
                found[run.name] = cell, attrs.evolve(task_of(run, sweep, out), source=source)
        return found


def plan(asked: Reproduction, out: Path | str | None = None, layout: Layout = PAPER_LAYOUT) -> ReproductionPlan:
    """Build every strategy and read the status of the cells, before any work begins.

    Args:
        asked: the request.
        out: its folder, if it was begun; nothing is written there.
        layout: of the tables.

    Raises:
        SettingError: an unknown table, figure, scenario or strategy, or an invalid setting of the training.
    """
    import_all(layout.imports)
    _check(asked, layout)
    cells: dict[str, PlannedCell] = {}
    absent: dict[tuple[str, str], str] = {}
    wanted: dict[tuple[str, str], None] = {}
    for column, rows in _wanted(asked, layout).items():
        names = dict.fromkeys(BASELINES if row.is_baseline else row.name for row in rows)
        wanted.update(dict.fromkeys((column, name) for name in names))
        try:
            scenario = scenarios.load(asked.scenario(column), asked.seeds[0])
        except DataError:
            absent.update({(column, name): f"needs {layout.column(column).dataset} in EXML_DATA" for name in names})
            continue
        except UnknownNameError:
            absent.update({(column, name): "this version of exml has no such scenario" for name in names})
            continue
        training, experts = to_plain(scenario.training), len(scenario.experiences)
        del scenario  # with all its images
        for cell in _cells_of(column, rows, asked, layout, absent):
            if cell.buffer is None or cell.buffer >= experts:  # each expert needs a share of the buffer
                planned = _planned(attrs.evolve(cell, training=training), experts, asked)
                cells[planned.run.name] = planned
    made = ReproductionPlan(asked, tuple(cells.values()), absent, tuple(wanted), layout.imports)
    return made if out is None else made.seen_in(Path(out))


def _check(asked: Reproduction, layout: Layout) -> None:
    columns = [column.name for column in layout.columns]
    in_tables = [column.name for column in layout.columns if column.table in asked.parts]
    known: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "a table or figure": (asked.parts, (*layout.tables, *FIGURES)),
        "a scenario of these tables": (asked.scenarios, in_tables),
        "a row of the tables": (asked.strategies, layout.strategies),
        "a scenario for Figure 3": ((asked.figure3_scenario,) if "figure3" in asked.parts else (), columns),
    }
    for what, (names, choices) in known.items():
        for name in names:
            if name not in choices:
                raise SettingError(
                    expected=f"{what}: {', '.join(choices) or 'there is none'}", got=repr(name), remedy="choose another"
                )


def _wanted(asked: Reproduction, layout: Layout) -> dict[str, tuple[TableRow, ...]]:
    """The rows of each column, in the order in which the columns are started."""
    rows = layout.asked(asked.strategies or layout.strategies, asked.recipes)
    in_tables = [column.name for column in layout.columns if column.table in asked.parts]
    wanted = dict.fromkeys(asked.scenarios or in_tables, rows)
    if "figure2" in asked.parts:
        samples = layout.asked(IN_FIGURE_2, asked.recipes)
        for name in layout.samples:
            wanted[name] = tuple(dict.fromkeys([*wanted.get(name, ()), *samples]))
    if "figure3" in asked.parts:
        wanted.setdefault(asked.figure3_scenario, ())
    return wanted


def _cells_of(
    column: str, rows: Sequence[TableRow], asked: Reproduction, layout: Layout, absent: dict[tuple[str, str], str]
) -> Iterator[Cell]:
    """The cells of the tables, then those of Figure 3."""
    name = asked.scenario(column)
    figure3 = [
        row
        for row in layout.asked(asked.strategies or layout.strategies, asked.recipes)
        if "figure3" in asked.parts and column == asked.figure3_scenario and row.strategy not in NOT_IN_FIGURE_3
    ]
    if any(row.is_baseline for row in rows):
        for seed in asked.seeds:
            yield Cell(column=column, scenario=name, row=BASELINES, seed=seed)
    whole: dict[tuple[int, str], Strategy] = {}
    for seed in asked.seeds:
        for row in dict.fromkeys([*rows, *figure3]):
            if row.is_baseline:
                continue
            if row.name not in layout.recipes:
                absent[column, row.name] = "this version of exml has no such recipe"
                continue
            try:
                whole[seed, row.name] = layout.recipes[row.name](name, seed).build()
            except Exception as error:  # a recipe that fails does not affect the other rows
                absent[column, row.name] = _why_not(row, error)
                continue
            if row in rows:
                budget = asked.budget_of(row.name)
                plain = at_budget(whole[seed, row.name], budget).to_dict()
                yield Cell(column=column, scenario=name, row=row.name, seed=seed, budget=budget, strategy=plain)
    budget = asked.budget
    for seed in asked.seeds:
        for size in asked.buffer_sizes:
            for row in figure3:
                if (seed, row.name) in whole:
                    plain = _with_buffer(at_budget(whole[seed, row.name], budget), size).to_dict()
                    cell = Cell(column=column, scenario=name, row=row.name, seed=seed, budget=budget, strategy=plain)
                    yield attrs.evolve(cell, buffer=size)


def _why_not(row: TableRow, error: Exception) -> str:
    if isinstance(error, DataError):
        return "needs its auxiliary images in EXML_DATA" if row.strategy == "auxiliary" else "needs data in EXML_DATA"
    return one_line(f"this strategy cannot be made: {error}")


def _with_buffer(strategy: Strategy, size: int) -> Strategy:
    buffer: Any = strategy.buffer
    if "size" not in attrs.fields_dict(type(buffer)):
        raise SettingError(
            expected="strategies whose buffers have a size, for Figure 3",
            got=repr(buffer),
            remedy="leave them out with --strategies",
        )
    return attrs.evolve(strategy, buffer=attrs.evolve(buffer, size=size))


def _planned(cell: Cell, experts: int, asked: Reproduction) -> PlannedCell:
    whole = [cell.scenario, cell.strategy, cell.seed, asked.device, asked.compile, asked.precision]
    digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:8]
    fields = {"budget": cell.budget, "buffer": cell.buffer}
    run = PlannedRun(
        name=f"{cell.name.replace('/', '--')}--{digest}",
        scenario=cell.scenario,
        strategy=cell.row,
        fields={name: value for name, value in fields.items() if value is not None},
        seed=cell.seed,
        parts=None if cell.is_baselines else Strategy.from_dict(cell.strategy),
        experts=experts,
    )
    return PlannedCell(cell, run)


def _status(cell: Cell, name: str, out: Path) -> Status:
    file = out / "cells" / f"{cell.name}.json"
    if file.exists():
        found = read_cell(file)
        if (in_full(found.strategy), found.training) == (cell.strategy, cell.training):
            return "done" if found.error is None else "failed"
    return "begun" if (out / "runs" / name / "run.json").exists() else "new"
