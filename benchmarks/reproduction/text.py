"""The tables as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from pages import table as grid

from exml.runs.sweep.tables import duration
from reproduction.layout import Layout
from reproduction.table import Column, Entry, Table

BREAK = "<br>"


def spread(mean: float, deviation: float | None, digits: int = 1) -> str:
    """Mean ± standard deviation.

    >>> spread(82.04, 2.83), spread(80, None)
    ('82.0 ± 2.8', '80.0')
    """
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def entry_text(entry: Entry) -> str:
    """An entry as Markdown: our number or the reason for its absence, n and budget, the paper's number."""
    lines: list[str] = []
    if entry.mean is None:
        lines.append(f"*{entry.reason}*")
    else:
        lines.append(f"**{spread(entry.mean, entry.deviation)}**")
        budget = "" if entry.budget is None else f", budget {entry.budget:g}"
        lines.append(f"n = {len(entry.seeds)}{budget}")
        if entry.failed:
            lines.append(f"*{len(entry.failed)} failed: {entry.failed[0]}*")
    lines.append("not in the paper" if entry.paper is None else f"paper: {spread(*entry.paper, digits=2)}")
    return BREAK.join(line.replace("|", "\\|") for line in lines)


def table_text(table: Table) -> str:
    """One table as Markdown, without its conditions."""
    rows = [
        [row.title, *(entry_text(table.entries[row.name, column.name]) for column in table.columns)]
        for row in table.rows
    ]
    heads = ["|", *(f"{column.title}|" for column in table.columns)]
    return "".join(f"{line}\n" for line in grid(heads, rows))


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
