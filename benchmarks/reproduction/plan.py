"""The request for cells of the paper's tables and figures, and its plan: the cells and their status."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import attrs
from cyclopts import Parameter, Token

from exml import scenarios
from exml.core.errors import DataError, SettingError, UnknownNameError
from exml.core.imports import import_all
from exml.core.serialization import to_plain
from exml.core.validators import in_range, one_of, positive_int
from exml.learning.strategy import Strategy
from exml.recipes import at_budget
from exml.runs import Job, Resources, ScenarioExperts, stream_folder
from exml.runs.jobs import one_line
from exml.runs.sweep import Plan, PlannedRun, Status, Sweep, job_of
from reproduction.cells import Cell, in_full, read_cell
from reproduction.layout import BASELINES, OWN, PAPER_LAYOUT, Family, Layout, TableRow

FAMILIES: tuple[Family, ...] = get_args(Family)
FIGURES = ("figure2", "figure3")
IN_FIGURE_2 = ("model-inversion", "data-impression")
"""Strategies of Figure 2."""
NOT_IN_FIGURE_3 = (BASELINES, "noise")


def _distinct(instance: Any, attribute: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    if not value or len(set(value)) != len(value):
        raise SettingError(
            expected=f"one or more different {attribute.name}", got=repr(value), remedy="list each of them once"
        )


def _listed(convert: Callable[[str], Any] = str) -> Parameter:
    """An option with values separated by commas."""

    def values(_: object, tokens: Sequence[Token]) -> tuple[Any, ...]:
        parts = [part.strip() for part in tokens[0].value.split(",")]
        return tuple(convert(part) for part in parts if part)

    return Parameter(converter=values)


def _family(part: str) -> Family:
    """Checked here, since Cyclopts does it in words of its own where Pydantic is imported."""
    if part in FAMILIES:
        return part
    raise ValueError(f"expected one of {', '.join(map(repr, FAMILIES))}, got {part!r}")


def _seeds(_: object, tokens: Sequence[Token]) -> tuple[int, ...]:
    """``"3"`` are three seeds, ``"3,"`` is seed 3."""
    text = tokens[0].value
    return tuple(int(part) for part in text.split(",") if part.strip()) if "," in text else tuple(range(int(text)))


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Reproduction:
    """The cells of some tables and figures: every scenario with every strategy and every seed.

    Args:
        parts: names of tables, ``"figure2"``, ``"figure3"``.
        scenarios: Columns in the order in which they are started, separated by commas; by default all.
        strategies: Rows, separated by commas: baselines, model-inversion, data-impression, auxiliary, replay, noise,
            exml; by default all.
        recipes: paper for the settings of the paper's text, reference for those of its code, or both with a comma.
        seeds: Their number, from 0, or a list with commas.
        budget: Share of the arithmetic, in (0, 1]; see :func:`exml.recipes.at_budget`.
        own_budget: The budget of our own recipe in the tables, which takes minutes where appendix B takes hours; by
            default the same.
        expert_training: Settings of the experts' training other than those of appendix A, such as
            epochs=4,schedule=cosine.
        experts: Folder of the experts, with a folder SCENARIO-SEED for each stream; OUT/experts by default. Experts
            that are there are not trained again.
        figure3_scenario: The scenario of Figure 3.
        buffer_sizes: Those of Figure 3, separated by commas.
        device: Where to run, as torch names it: 'cpu' or 'cuda'.
        compile: See exml run.
        precision: See exml run.
        threads: Processor cores of each cell.
        gpus: GPUs of each cell; below 1, cells share one. By default 1 on 'cuda'.

    Raises:
        SettingError: a number out of range, or a value given twice.

    >>> Reproduction(parts=("table2",), expert_training="epochs=4").scenario("mnist-nc")
    'mnist-nc:epochs=4'
    """

    parts: Annotated[tuple[str, ...], Parameter(parse=False)] = attrs.field(
        default=("table2", "table3"), validator=_distinct
    )
    scenarios: Annotated[tuple[str, ...], _listed()] = ()
    strategies: Annotated[tuple[str, ...], _listed()] = ()
    recipes: Annotated[tuple[Family, ...], _listed(_family)] = attrs.field(
        default=("paper",), validator=[_distinct, attrs.validators.deep_iterable(one_of(*FAMILIES))]
    )
    seeds: Annotated[tuple[int, ...], Parameter(converter=_seeds)] = attrs.field(
        default=(0, 1, 2, 3, 4), validator=[_distinct, attrs.validators.deep_iterable(in_range(0, integer=True))]
    )
    budget: float = attrs.field(default=1.0, validator=in_range(0, 1, open_low=True))
    own_budget: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    expert_training: str = ""
    experts: Path | None = None
    figure3_scenario: str = "cifar10-mt"
    buffer_sizes: Annotated[tuple[int, ...], _listed(int)] = attrs.field(
        default=(10, 50, 100, 500, 1_000, 5_000),
        validator=[_distinct, attrs.validators.deep_iterable(in_range(1, integer=True))],
    )
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = attrs.field(default=1, validator=positive_int())
    gpus: float | None = None

    @property
    def resources(self) -> Resources:
        """What each cell has to itself."""
        gpus = float(self.device.startswith("cuda")) if self.gpus is None else self.gpus
        return Resources(cpus=self.threads, gpus=gpus)

    def scenario(self, column: str) -> str:
        """The scenario of a column with the training of its experts."""
        return f"{column}:{self.expert_training}" if self.expert_training else column

    def budget_of(self, row: str) -> float:
        """The budget of a row of the tables."""
        return self.own_budget if row == OWN and self.own_budget is not None else self.budget


@attrs.frozen
class PlannedCell:
    """One cell and its run, whose name has a digest of everything that the numbers depend on."""

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

    def experts(self, cell: Cell, out: Path) -> Path:
        """The folder of the experts of a cell."""
        zoo = out / "experts" if self.asked.experts is None else self.asked.experts
        return zoo.resolve() / stream_folder(cell.scenario, cell.seed)

    def jobs(self, out: Path) -> list[Job]:
        """The runs of the cells that remain to be measured, including those that failed."""
        left = [planned for planned in self.cells if planned.run.status != "done"]
        jobs: list[Job] = []
        for planned in left:
            cell = planned.cell
            source = ScenarioExperts(cell.scenario, folder=self.experts(cell, out), baselines=cell.is_baselines)
            jobs.append(job_of(planned.run, self.as_sweep().sweep, out, source))
        return jobs


def plan(asked: Reproduction, out: Path | str | None = None, layout: Layout = PAPER_LAYOUT) -> ReproductionPlan:
    """Build every strategy and read the status of the cells in ``out``, before any work begins.

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
                planned = _planned(attrs.evolve(cell, training=training), asked)
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
                expected = f"{what}: {', '.join(choices) or 'there is none'}"
                raise SettingError(expected=expected, got=repr(name), remedy="choose another")


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
        expected, remedy = "strategies whose buffers have a size, for Figure 3", "leave them out with --strategies"
        raise SettingError(expected=expected, got=repr(buffer), remedy=remedy)
    return attrs.evolve(strategy, buffer=attrs.evolve(buffer, size=size))


def _planned(cell: Cell, asked: Reproduction) -> PlannedCell:
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
    )
    return PlannedCell(cell, run)


def _status(cell: Cell, name: str, out: Path) -> Status:
    file = out / "cells" / f"{cell.name}.json"
    if file.exists():
        found = read_cell(file)
        if (in_full(found.strategy), found.training) == (cell.strategy, cell.training):
            return "done" if found.error is None else "failed"
    return "begun" if (out / "runs" / name / "run.json").exists() else "new"
