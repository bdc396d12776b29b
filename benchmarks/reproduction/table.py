"""The tables, made of the measured cells."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from exml.runs import Environment
from reproduction.cell import Cell, in_full
from reproduction.layout import BASELINES, Layout, TableRow

Reasons = Mapping[tuple[str, str], str | None]
"""By column and row of all requests: why a row cannot be measured, None if it can."""


@attrs.frozen(kw_only=True)
class Entry:
    """One row in one column.

    Args:
        seeds: those that were measured.
        accuracies: stream accuracy (Eq. 2) of each seed, in percent.
        forgetting: mean over the seeds, in points; None for baselines and single experiences.
        seconds: mean over the seeds; None for baselines.
        budget: None for baselines.
        failed: errors of failed seeds.
        reason: why no seed was measured.
        paper: mean and standard deviation in the paper.
    """

    seeds: tuple[int, ...] = ()
    accuracies: tuple[float, ...] = ()
    forgetting: float | None = None
    seconds: float | None = None
    budget: float | None = None
    failed: tuple[str, ...] = ()
    reason: str | None = None
    paper: tuple[float, float] | None = None

    @property
    def mean(self) -> float | None:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample (n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@attrs.frozen(kw_only=True)
class Column:
    """One scenario and the training of its experts.

    Args:
        name: of the scenario, without settings.
        title: its heading.
        scenario: name with settings; None if nothing was measured.
        training: of the experts, as plain data; None if nothing was measured.
        environments: of all its cells.
        commits: of all its cells.
    """

    name: str
    title: str
    scenario: str | None = None
    training: Mapping[str, Any] | None = None
    environments: tuple[Environment, ...] = ()
    commits: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Table:
    """Rows by columns.

    Args:
        name: such as ``"table2"``.
        columns: in their order.
        rows: in their order; those of the reference recipes only if they were requested or measured.
        entries: by the names of row and column.
        notes: caveats.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    entries: Mapping[tuple[str, str], Entry]
    notes: tuple[str, ...] = ()


def tables_of(cells: Sequence[Cell], reasons: Reasons, layout: Layout) -> tuple[Table, ...]:
    """All tables.

    The cells of a column have one training of experts, so that all rows use the same streams: the training with the
    most cells of strategies, or else with more epochs. The cells of a row have its highest budget; failed cells count
    only where nothing was measured. Cells of Figure 3 are left out.

    Args:
        cells: of a folder.
        reasons: of all requests.
        layout: of the tables.
    """
    return tuple(
        _table(name, [cell for cell in cells if cell.buffer is None], reasons, layout) for name in layout.tables
    )


def _table(name: str, cells: Sequence[Cell], reasons: Reasons, layout: Layout) -> Table:
    columns: list[Column] = []
    entries: dict[tuple[str, str], Entry] = {}
    notes: list[str] = []
    for head in (column for column in layout.columns if column.table == name):
        here = _one_stream([cell for cell in cells if cell.column == head.name])
        used: list[Cell] = []
        for row in layout.rows:
            entry, shown = _entry(row, head.name, here, reasons, layout)
            entries[row.name, head.name] = entry
            used += shown
        columns.append(_column(head.name, head.title, used))
        notes += _differences(head.title, used)
        notes += _versions(head.title, used, layout)
    rows = tuple(row for row in layout.rows if row.family in (None, "paper") or _is_there(row, columns, entries))
    return Table(name=name, columns=tuple(columns), rows=rows, entries=entries, notes=tuple(notes))


def _one_stream(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the training of experts to show."""
    by_scenario: dict[str, list[Cell]] = {}
    for cell in cells:
        by_scenario.setdefault(cell.scenario, []).append(cell)

    def weight(of: list[Cell]) -> tuple[int, int, int, int]:
        good = [cell for cell in of if cell.error is None]
        strategies = sum(not cell.is_baselines for cell in good)
        return strategies, len(good), len(of), (of[0].training or {}).get("epochs", 0)

    return max(by_scenario.values(), key=weight, default=[])


def _entry(
    row: TableRow, column: str, cells: Sequence[Cell], reasons: Reasons, layout: Layout
) -> tuple[Entry, list[Cell]]:
    """The entry of a row, and the cells that it is made of."""
    paper = None if row.paper is None else layout.figures.get(row.paper, {}).get(column)
    name = BASELINES if row.is_baseline else row.name
    mine = [cell for cell in cells if cell.row == name]
    good = [cell for cell in mine if cell.error is None]
    budget = max((cell.budget for cell in good or mine if cell.budget is not None), default=None)
    mine = sorted((cell for cell in mine if cell.budget == budget), key=lambda cell: cell.seed)
    good = [cell for cell in mine if cell.error is None]
    failed = tuple(f"seed {cell.seed}: {cell.error}" for cell in mine if cell.error is not None)
    reason = None
    if not good:
        reason = _nothing(name, column, failed, reasons)
        return Entry(budget=budget, failed=failed, reason=reason, paper=paper), []
    if row.is_baseline:
        found = [next(one for one in cell.baselines if one.name == row.name) for cell in good]
        reason = next((one.reason for one in found if one.reason is not None), None)
        if reason is not None:
            return Entry(failed=failed, reason=reason, paper=paper), good
        accuracies, forgetting, seconds = [one.stream_accuracy for one in found], list[float](), list[float]()
    else:
        accuracies = [cell.stream_accuracy[-1] for cell in good]
        forgetting = [100 * cell.forgetting for cell in good if cell.forgetting is not None]
        seconds = [cell.seconds.total for cell in good if cell.seconds is not None]
    entry = Entry(
        seeds=tuple(cell.seed for cell in good),
        accuracies=tuple(100 * accuracy for accuracy in accuracies if accuracy is not None),
        forgetting=statistics.fmean(forgetting) if forgetting else None,
        seconds=statistics.fmean(seconds) if seconds else None,
        budget=budget,
        failed=failed,
        paper=paper,
    )
    return entry, good


def _nothing(name: str, column: str, failed: Sequence[str], reasons: Reasons) -> str:
    if failed:
        return f"failed: {failed[0]}"
    if (column, name) not in reasons:
        return "not asked for"
    reason = reasons[column, name]
    return "not measured yet" if reason is None else f"not measured: {reason}"


def _column(name: str, title: str, used: Sequence[Cell]) -> Column:
    if not used:
        return Column(name=name, title=title)
    return Column(
        name=name,
        title=title,
        scenario=used[0].scenario,
        training=used[0].training,
        environments=_distinct(environment for cell in used for environment in cell.environments),
        commits=tuple(sorted({cell.commit for cell in used if cell.commit is not None})),
    )


def _distinct(environments: Iterable[Environment]) -> tuple[Environment, ...]:
    found: list[Environment] = []  # they hold mappings, and have no hash
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return tuple(found)


def _differences(title: str, used: Sequence[Cell]) -> list[str]:
    """A note if the rows of a column used different experts."""
    experts: dict[int, set[tuple[str, ...]]] = {}
    for cell in used:
        experts.setdefault(cell.seed, set()).add(cell.experts)
    seeds = [str(seed) for seed, streams in sorted(experts.items()) if len(streams) > 1]
    if not seeds:
        return []
    return [f"{title}: the experts of seed {', '.join(seeds)} were trained anew between two rows, and differ in bits."]


def _versions(title: str, used: Sequence[Cell], layout: Layout) -> list[str]:
    """Notes on rows whose recipe changed between two calls."""
    strategies: dict[str, list[Any]] = {}
    for cell in used:
        plain = _without_seed(in_full(cell.strategy))
        if plain not in strategies.setdefault(cell.row, []):
            strategies[cell.row].append(plain)
    titles = {row.name: row.title for row in layout.rows}
    return [
        f"{title}: the seeds of {titles[name]} were measured with {len(found)} versions of its recipe."
        for name, found in strategies.items()
        if len(found) > 1
    ]


def _without_seed(plain: Any) -> Any:
    """A strategy without the fields that depend on the seed: the source of real images and the classes of tasks."""
    if isinstance(plain, Mapping):
        return {key: _without_seed(part) for key, part in plain.items() if key not in ("seed", "tasks")}
    return [_without_seed(part) for part in plain] if isinstance(plain, list) else plain


def _is_there(row: TableRow, columns: Sequence[Column], entries: Mapping[tuple[str, str], Entry]) -> bool:
    return any(entries[row.name, column.name].reason != "not asked for" for column in columns)
