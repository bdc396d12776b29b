"""What a reproduction will do: its cells, how far each is, and which cannot be measured here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from exml import scenarios
from exml.core.errors import DataError, SettingError, UnknownNameError
from exml.core.serialization import to_plain
from exml.learning.strategy import Strategy
from exml.recipes import at_budget
from exml.runs import stream_folder
from exml.runs.sweep import Plan, PlannedRun, Status, Sweep, Task
from exml.runs.sweep._imports import import_all
from exml.runs.sweep.backend import one_line
from reproduction.cell import Cell, in_full, read_cell
from reproduction.layout import BASELINES, PAPER_LAYOUT, Layout, TableRow
from reproduction.reproduction import FIGURES, Reproduction

IN_FIGURE_2 = ("model-inversion", "data-impression")
"""Strategies of Figure 2."""
NOT_IN_FIGURE_3 = (BASELINES, "noise")


@attrs.frozen
class PlannedCell:
    """One cell, and the run that it comes of.

    Args:
        cell: as far as it is known before the work.
        run: its name is that of a folder in ``runs/``; it changes with everything that the numbers depend on.
    """

    cell: Cell
    run: PlannedRun


@attrs.frozen
class ReproductionPlan:
    """The cells in the order in which they are begun.

    Args:
        asked: what is planned.
        cells: scenario by scenario, in each the baselines of all seeds, then seed by seed all strategies.
        absent: why cells that were asked for cannot be measured here, by column and row; rows of baselines are one.
        wanted: all that was asked for, columns and rows.
    """

    asked: Reproduction
    cells: tuple[PlannedCell, ...]
    absent: Mapping[tuple[str, str], str]
    wanted: tuple[tuple[str, str], ...]

    @property
    def left(self) -> tuple[PlannedCell, ...]:
        """Those that there is something to do for; what has failed is begun again."""
        return tuple(cell for cell in self.cells if cell.run.status != "done")

    def seen_in(self, out: Path) -> ReproductionPlan:
        """The plan with what a folder has of it."""
        cells = [
            attrs.evolve(planned, run=attrs.evolve(planned.run, status=_status(planned.cell, planned.run.name, out)))
            for planned in self.cells
        ]
        return attrs.evolve(self, cells=tuple(cells))

    def as_sweep(self) -> Plan:
        """The runs as those of a sweep, for what shows, foresees and carries them out."""
        runs = tuple(cell.run for cell in self.cells)
        asked = self.asked
        sweep = Sweep(
            scenarios=tuple(dict.fromkeys(run.scenario for run in runs)),
            strategies=tuple(dict.fromkeys(run.strategy for run in runs)),
            seeds=asked.seeds,
            device=asked.device,
            compile=asked.compile,
            precision=asked.precision,
            resources=asked.resources,
        )
        return Plan(sweep, runs)


def plan(asked: Reproduction, out: Path | str | None = None, layout: Layout = PAPER_LAYOUT) -> ReproductionPlan:
    """Make every strategy and see what the folder has of it, before any work begins.

    Args:
        asked: to be planned.
        out: its folder, if it was begun; nothing is written there.
        layout: of the tables.

    Raises:
        SettingError: no such table, figure, scenario or strategy, or settings of training that there are not.
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
        except (DataError, UnknownNameError) as error:
            reason = f"needs {layout.column(column).dataset} in EXML_DATA"
            if isinstance(error, UnknownNameError):
                reason = "this version of exml has no such scenario"
            absent.update({(column, name): reason for name in names})
            continue
        training, experts = to_plain(scenario.training), len(scenario.experiences)
        del scenario  # with all its images
        for cell in _cells_of(column, rows, asked, layout, absent):
            if cell.buffer is None or cell.buffer >= experts:  # each needs a share of it
                planned = _planned(attrs.evolve(cell, training=training), experts, asked)
                cells[planned.run.name] = planned
    made = ReproductionPlan(asked, tuple(cells.values()), absent, tuple(wanted))
    return made if out is None else made.seen_in(Path(out))


def _check(asked: Reproduction, layout: Layout) -> None:
    in_tables = {column.name for column in layout.columns if column.table in asked.parts}
    known: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        "a table or figure": (asked.parts, (*layout.tables, *FIGURES)),
        "a scenario of these tables": (asked.scenarios, [c.name for c in layout.columns if c.name in in_tables]),
        "a row of the tables": (asked.strategies, layout.strategies),
        "a scenario for Figure 3": (
            (asked.figure3_scenario,) if "figure3" in asked.parts else (),
            [column.name for column in layout.columns],
        ),
    }
    for what, (names, choices) in known.items():
        for name in names:
            if name not in choices:
                raise SettingError(
                    expected=f"{what}: {', '.join(choices) or 'there is none'}", got=repr(name), remedy="choose another"
                )


def _wanted(asked: Reproduction, layout: Layout) -> dict[str, tuple[TableRow, ...]]:
    """The rows of each column, in the order in which the columns are begun."""
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
    column: str,
    rows: Sequence[TableRow],
    asked: Reproduction,
    layout: Layout,
    absent: dict[tuple[str, str], str],
) -> list[Cell]:
    """Those of the tables, then those of Figure 3."""
    name, cells = asked.scenario(column), list[Cell]()

    def cell(row: str, seed: int, **more: Any) -> Cell:
        return Cell(column=column, scenario=name, row=row, seed=seed, **more)

    if any(row.is_baseline for row in rows):
        cells += [cell(BASELINES, seed) for seed in asked.seeds]
    made: dict[tuple[str, int], Strategy] = {}
    figure3 = [
        row
        for row in layout.asked(asked.strategies or layout.strategies, asked.recipes)
        if "figure3" in asked.parts and column == asked.figure3_scenario and row.strategy not in NOT_IN_FIGURE_3
    ]
    for seed in asked.seeds:
        for row in dict.fromkeys([*rows, *figure3]):
            if row.is_baseline:
                continue
            if row.name not in layout.recipes:
                absent[column, row.name] = "this version of exml has no such recipe"
                continue
            try:
                whole = layout.recipes[row.name](name, seed).build()
            except Exception as error:  # whatever a recipe raises, the other rows have nothing to do with it
                absent[column, row.name] = _why_not(row, error)
                continue
            made[row.name, seed] = at_budget(whole, asked.budget)
            if row in rows:
                budget = asked.budget_of(row.name)
                cells.append(cell(row.name, seed, budget=budget, strategy=at_budget(whole, budget).to_dict()))
    for seed in asked.seeds:
        for size in asked.buffer_sizes:
            for row in figure3:
                strategy = made.get((row.name, seed))
                if strategy is not None:
                    plain = _with_buffer(strategy, size).to_dict()
                    cells.append(cell(row.name, seed, budget=asked.budget, buffer=size, strategy=plain))
    return cells


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
    name = f"{cell.name.replace('/', '--')}--{digest}"
    fields = {"budget": cell.budget, **({} if cell.buffer is None else {"buffer": cell.buffer})}
    run = PlannedRun(
        name=name,
        scenario=cell.scenario,
        strategy=cell.row,
        fields={} if cell.is_baselines else fields,
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


def task_of(planned: PlannedCell, asked: Reproduction, out: Path, experts: Path, imports: tuple[str, ...] = ()) -> Task:
    """A cell as plain data, with absolute paths: its process may stand elsewhere."""
    run, out = planned.run, out.resolve()
    return Task(
        name=run.name,
        scenario=run.scenario,
        strategy=run.strategy,
        parts=planned.cell.strategy or {},
        seed=run.seed,
        split="test",
        device=asked.device,
        compile=asked.compile,
        precision=asked.precision,
        threads=asked.resources.cpus,
        imports=imports,
        folder=str(out / "runs" / run.name),
        experts=str(experts.resolve() / stream_folder(run.scenario, run.seed)),
        log=str(out / "logs" / f"{run.name}.txt"),
        baselines=planned.cell.is_baselines,
    )
