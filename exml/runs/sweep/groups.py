"""Rows of a sweep that differ in the seed alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from exml.runs.sweep._fields import short_names, show
from exml.runs.sweep.results import Row, SweepResult


@attrs.frozen
class Group:
    """A strategy with one combination of fields, or a baseline, in one scenario.

    Args:
        kind: of its rows.
        scenario: their scenario.
        strategy: name of the strategy or baseline.
        fields: those that differ within the sweep, by short names.
        rows: one for each seed.
    """

    kind: Literal["strategy", "baseline"]
    scenario: str
    strategy: str
    fields: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """Strategy and fields as text."""
        return label_of(self.strategy, self.fields)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of the runs that did not fail."""
        return tuple(row.stream_accuracy for row in self.rows if row.stream_accuracy is not None)

    @property
    def text(self) -> str:
        """Mean and standard deviation in percent, and how many failed."""
        failed = sum(row.error is not None for row in self.rows)
        parts = [spread([100 * accuracy for accuracy in self.accuracies])] if self.accuracies else []
        return ", ".join([*parts, *([f"{failed} failed"] if failed else [])])


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the mean alone of a single value.

    >>> spread([80.0, 84.0]), spread([80.0]), spread([])
    ('82.0 ± 2.8', '80.0', '')
    """
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def groups_of(result: SweepResult) -> tuple[Group, ...]:
    """The rows by scenario, strategy and fields, in the order of the first of each."""
    several = varied(result.columns, [(row.strategy, row.fields) for row in result.rows if row.kind == "strategy"])
    names = short_names(several)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in result.rows:
        fields = (repr(row.fields.get(path)) for path in several)
        groups.setdefault((row.kind, row.scenario, row.strategy, *fields), []).append(row)
    return tuple(
        Group(
            rows[0].kind,
            rows[0].scenario,
            rows[0].strategy,
            {names[path]: rows[0].fields[path] for path in several if path in rows[0].fields},
            tuple(rows),
        )
        for rows in groups.values()
    )


def varied(columns: Sequence[str], runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The fields that tell runs of one strategy from each other.

    Args:
        columns: all fields that there are.
        runs: strategy and fields of each.

    >>> varied(["a", "b"], [("x", {"a": 1, "b": 1}), ("x", {"a": 2, "b": 1}), ("y", {"a": 1, "b": 2})])
    ['a']
    """
    values: dict[tuple[str, str], set[str]] = {}
    for strategy, fields in runs:
        for path in columns:
            values.setdefault((strategy, path), set()).add(repr(fields.get(path)))
    return [path for path in columns if any(len(found) > 1 for (_, at), found in values.items() if at == path)]


def label_of(strategy: str, fields: Mapping[str, Any]) -> str:
    """Strategy and fields as text."""
    return " ".join([strategy, *(f"{name}={show(value)}" for name, value in fields.items())])
