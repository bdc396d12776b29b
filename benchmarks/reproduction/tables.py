"""The tables, made of the measured cells, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from pages import table as grid
from pages import wrap

from exml.runs import Environment, duration
from reproduction.cells import Cell, in_full
from reproduction.layout import BASELINES, Layout, TableRow

Reasons = Mapping[tuple[str, str], str | None]
"""By column and row of all requests: why a row cannot be measured, None if it can."""


@attrs.frozen(kw_only=True)
class Entry:
    """One row in one column.

    Stream accuracies (Eq. 2) in percent and forgetting in points; means over the seeds of forgetting and seconds, which
    baselines do not have; the errors of failed seeds, or the reason why no seed was measured; the paper's mean and
    deviation.
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
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the sample (n - 1); None for fewer than two seeds."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@attrs.frozen(kw_only=True)
class Column:
    """One scenario: its name without settings, heading, and if anything was measured, its settings and conditions."""

    name: str
    title: str
    scenario: str | None = None
    training: Mapping[str, Any] | None = None
    environments: tuple[Environment, ...] = ()
    commits: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Table:
    """Entries by the names of row and column, and notes; reference recipes only if they were requested or measured."""

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
        column = Column(name=head.name, title=head.title)
        if used:
            column = attrs.evolve(
                column,
                scenario=used[0].scenario,
                training=used[0].training,
                environments=tuple({repr(place): place for cell in used for place in cell.environments}.values()),
                commits=tuple(sorted({cell.commit for cell in used if cell.commit is not None})),
            )
        columns.append(column)
        notes += _differences(head.title, used)
        notes += _versions(head.title, used, layout)
    rows = tuple(
        row
        for row in layout.rows
        if row.family != "reference" or any(entries[row.name, each.name].reason != "not asked for" for each in columns)
    )
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


def spread(mean: float, deviation: float | None, digits: int = 1) -> str:
    """Mean ± standard deviation.

    >>> spread(82.04, 2.83), spread(80, None)
    ('82.0 ± 2.8', '80.0')
    """
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def entry_text(entry: Entry, mark: Callable[[str], str]) -> str:
    """An entry as Markdown: our number with n and budget, or the mark of a reason; below it, the paper's number."""
    if entry.mean is None:
        lines = [f"– {mark(str(entry.reason))}"]
    else:
        failed = f" {mark(f'{len(entry.failed)} failed: {entry.failed[0]}')}" if entry.failed else ""
        budget = "" if entry.budget is None else f", {entry.budget:g}"
        lines = [f"**{spread(entry.mean, entry.deviation)}** ({len(entry.seeds)}{budget}){failed}"]
    lines += [] if entry.paper is None else [spread(*entry.paper, digits=2)]
    return "<br>".join(lines)


def table_text(table: Table) -> str:
    """One table as Markdown with the reasons for what is missing, without its conditions."""
    reasons: list[str] = []

    def mark(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        return f"<sup>{reasons.index(reason) + 1}</sup>"

    rows = [
        [row.title, *(entry_text(table.entries[row.name, column.name], mark) for column in table.columns)]
        for row in table.rows
    ]
    heads = ["|", *(f"{column.title}|" for column in table.columns)]
    legend = "Ours in bold, with n and the budget in parentheses; below it the paper's, if it has one."
    legend += "".join(f" {mark(reason)} {reason}." for reason in reasons)
    return "".join(f"{line}\n" for line in [*grid(heads, rows), "", *wrap(legend)])


def conditions_text(table: Table) -> str:
    """The conditions of the measurements in each column, as Markdown."""
    items: list[str] = []
    for column in table.columns:
        if column.scenario is None:
            continue
        entries = [(row, table.entries[row.name, column.name]) for row in table.rows]
        seconds = [f"{row.title} {duration(entry.seconds)}" for row, entry in entries if entry.seconds is not None]
        items += [
            f"- **{column.title}**, `{column.scenario}`",
            f"  - experts: {training_text(column)}",
            f"  - a cell took: {', '.join(seconds)}",
            *(f"  - on: {place}" for place in places(column)),
        ]
        items += [f"  - at commit {', '.join(column.commits)}"] if column.commits else []
    return "\n".join(items) + "\n" if items else "Nothing was measured yet.\n"


def training_text(column: Column) -> str:
    """The training of the experts of a column."""
    training = column.training or {}
    parts = [f"{training[name]} {name.replace('_', ' ')}" for name in ("epochs",) if name in training]
    parts += [
        f"{name.replace('_', ' ')} {training[name]:g}"
        if isinstance(training[name], float)
        else f"{name} {training[name]}"
        for name in ("learning_rate", "schedule")
        if training.get(name) is not None
    ]
    parts += ["augmented images"] if training.get("augmentation") is not None else []
    parts += [training["precision"]] if training.get("precision", "float32") != "float32" else []
    return ", ".join(parts)


def places(column: Column) -> list[str]:
    """Hardware and versions of a column, without repetitions."""
    lines: list[str] = []
    for environment in column.environments:
        how = "" if environment.compile == "never" else f", compile {environment.compile}"
        how += "" if environment.precision == "float32" else f", {environment.precision}"
        versions = ", ".join(f"{name} {environment.versions[name]}" for name in ("exml", "torch"))
        threads = f"{environment.threads} thread{'s' if environment.threads > 1 else ''}"
        lines.append(f"{environment.hardware}, {environment.device}, {threads}{how}; {versions}")
    return list(dict.fromkeys(lines))


def markdown(tables: Sequence[Table], layout: Layout) -> str:
    """``table.md``."""
    parts = [
        "Stream accuracy (Eq. 2) in percent, mean ± standard deviation over n streams of experts; the paper's below. "
        "All rows of a column were measured on the same experts. What a budget below 1 means, "
        "`exml.recipes.at_budget` says.\n"
    ]
    for table in tables:
        parts += [f"## {table.name.replace('table', 'Table ')}\n", table_text(table), conditions_text(table)]
        parts += [f"{note}\n" for note in table.notes]
    if layout.note is not None:
        parts.append(f"{layout.note}\n")
    return "\n".join(parts)


def as_json(tables: Sequence[Table], layout: Layout) -> dict[str, Any]:
    """``table.json``: all numbers and reasons."""
    found: dict[str, Any] = {}
    for table in tables:
        rows: list[Mapping[str, Any]] = []
        for row in table.rows:
            entries = {column.name: _entry_json(table.entries[row.name, column.name]) for column in table.columns}
            rows.append({"name": row.name, "title": row.title, "entries": entries})
        columns = [attrs.asdict(column) for column in table.columns]
        found[table.name] = {"columns": columns, "rows": rows, "notes": list(table.notes)}
    return {"version": 1, "tables": found, "paper_note": layout.note}


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {"mean": entry.mean, "deviation": entry.deviation, "n": len(entry.seeds), **attrs.asdict(entry)}
