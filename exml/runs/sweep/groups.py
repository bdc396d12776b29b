"""Rows of a sweep that differ only in the seed."""

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
        scenario: of its rows.
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
    def accuracies(self) -> list[float]:
        """Stream accuracies of the runs that did not fail, in percent."""
        return [100 * row.stream_accuracy for row in self.rows if row.stream_accuracy is not None]

    @property
    def text(self) -> str:
        """Mean and standard deviation in percent, and the number of failed runs."""
        failed = sum(row.error is not None for row in self.rows)
        parts = [spread(self.accuracies), f"{failed} failed" if failed else ""]
        return ", ".join(part for part in parts if part)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; only the mean for a single value.

    >>> spread([80.0, 84.0]), spread([80.0]), spread([])
    ('82.0 ± 2.8', '80.0', '')
    """
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def groups_of(result: SweepResult) -> tuple[Group, ...]:
    """The rows by scenario, strategy and fields, in the order of the first row of each."""
    several = _varied(result)
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


def _varied(result: SweepResult) -> list[str]:
    """The fields in which rows of one strategy differ."""
    values: dict[tuple[str, str], set[str]] = {}
    for row in result.rows:
        for path in result.columns:
            values.setdefault((path, row.strategy), set()).add(repr(row.fields.get(path)))
    return [path for path in result.columns if any(len(found) > 1 for (at, _), found in values.items() if at == path)]


def label_of(strategy: str, fields: Mapping[str, Any]) -> str:
    """Strategy and fields as text."""
    return " ".join([strategy, *(f"{name}={show(value)}" for name, value in fields.items())])
