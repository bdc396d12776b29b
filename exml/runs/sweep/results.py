"""The results of a sweep: one tidy table, its rows over the seeds, and their figure."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Group as Lines
from rich.text import Text

from exml.core.files import write_json, write_text
from exml.runs.figures import COLORS, MARKERS, fitted, new_figure
from exml.runs.record import read_result
from exml.runs.sweep.plan import Plan, PlannedRun, failure_file, label_of, new_table, show

DASHES: tuple[Any, ...] = (":", "--", "-.", (0, (6, 1, 1, 1, 1, 1)), "-")
ACROSS = 3
"""Panels in a row."""


@attrs.frozen(kw_only=True)
class Row:
    """One strategy with one combination of fields, or one baseline, in one scenario with one seed.

    Args:
        scenario: its name.
        kind: a baseline uses the same experts as the strategies of its scenario and seed.
        strategy: name of the strategy or baseline.
        fields: values of the varied fields, as plain data.
        seed: of the run.
        ex_model: whether it respects the constraints of the ex-model scenario (Sec. 2); None if the run failed.
        stream_accuracy: at the end of the stream (Eq. 2), a fraction; None if the run failed or had no strategy.
        forgetting: see :func:`exml.runs.evaluation.forgetting`; None for baselines and failed runs.
        seconds: of generation, distillation and evaluation; None for baselines and failed runs.
        error: of a failed run, in one line.
        folder: of the run, relative to the folder of the sweep; None for baselines.
    """

    scenario: str
    kind: Literal["strategy", "baseline"] = "strategy"
    strategy: str
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    seed: int
    ex_model: bool | None = None
    stream_accuracy: float | None = None
    forgetting: float | None = None
    seconds: float | None = None
    error: str | None = None
    folder: str | None = None


@attrs.frozen
class Group:
    """The rows of a sweep that differ only in the seed.

    Args:
        label: the strategy with the fields that differ within the sweep, or the baseline.
        rows: one for each seed.
    """

    label: str
    rows: tuple[Row, ...]

    @property
    def scenario(self) -> str:
        """Name of the scenario."""
        return self.rows[0].scenario

    @property
    def accuracies(self) -> list[float]:
        """Stream accuracies of the runs that did not fail, in percent."""
        return [100 * row.stream_accuracy for row in self.rows if row.stream_accuracy is not None]

    @property
    def text(self) -> str:
        """Mean and standard deviation in percent, and the number of failed runs."""
        failed = sum(row.error is not None for row in self.rows)
        return ", ".join(filter(None, [spread(self.accuracies), f"{failed} failed" if failed else ""]))


@attrs.frozen
class SweepResult:
    """One row for each finished run, then the baselines.

    Args:
        columns: paths of the varied fields.
        rows: in the order of the plan; a baseline that applies has one row for each scenario and seed.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows of failed runs."""
        return tuple(row for row in self.rows if row.error is not None)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The rows by scenario, strategy and fields, in the order of the first row of each."""
        values: dict[tuple[str, str], set[str]] = {}
        for row in self.rows:
            for path in self.columns:
                values.setdefault((path, row.strategy), set()).add(repr(row.fields.get(path)))
        varied = dict.fromkeys(path for (path, _), found in values.items() if len(found) > 1)
        ends = [path.rpartition(".")[2] for path in varied]
        names = {path: end if ends.count(end) == 1 else path for path, end in zip(varied, ends, strict=True)}
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            fields = {names[path]: row.fields[path] for path in self.columns if path in names and path in row.fields}
            groups.setdefault((row.kind, row.scenario, label_of(row.strategy, fields)), []).append(row)
        return tuple(Group(label, tuple(rows)) for (_, _, label), rows in groups.items())

    def summary(self, run: str) -> str:
        """The outcome of a run in a few words; empty if it failed or had no strategy."""
        row = next(row for row in self.rows if row.folder == f"runs/{run}")
        return "" if row.stream_accuracy is None else f"stream accuracy {row.stream_accuracy:.1%}, {row.seconds:.1f} s"

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain data, with a column for each varied field; None where a strategy does not have it."""
        records: list[dict[str, Any]] = []
        for row in self.rows:
            plain = attrs.asdict(row, recurse=False)
            del plain["fields"]
            head = {name: plain.pop(name) for name in ("scenario", "kind", "strategy")}
            records.append({**head, **{path: row.fields.get(path) for path in self.columns}, **plain})
        return records

    def save(self, folder: Path | str) -> None:
        """Write ``results.csv`` and ``results.json`` atomically."""
        records, text = self.records(), io.StringIO(newline="")
        names = [field.name for field in attrs.fields(Row) if field.name != "fields"]
        writer = csv.DictWriter(text, [*names[:3], *self.columns, *names[3:]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if value is None else show(value) for name, value in row.items()} for row in records)
        write_text(Path(folder) / "results.csv", text.getvalue())
        write_json(Path(folder) / "results.json", records)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; only the mean for a single value."""
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def gather(plan: Plan, folder: Path, known: dict[str, list[Row]]) -> SweepResult:
    """The table with all runs finished so far; ``known`` keeps the rows of each run, which is read only once."""
    for run in plan.runs:
        if run.name not in known and (rows := _read(run, folder)):
            known[run.name] = rows
    finished = [known[run.name] for run in plan.runs if run.name in known]
    baselines = {(rows[0].scenario, rows[0].seed): rows[1:] for rows in finished if rows[0].error is None}
    pairs = itertools.product(plan.sweep.scenarios, plan.sweep.seeds)
    last = [row for pair in pairs for row in baselines.get(pair, ())]
    return SweepResult(plan.columns, (*(rows[0] for rows in finished), *last))


def _read(run: PlannedRun, out: Path) -> list[Row]:
    """The row of a run, and those of the baselines; none if it has not ended."""
    folder, failure = f"runs/{run.name}", failure_file(out, run.name)
    row = Row(scenario=run.scenario, strategy=run.strategy, fields=run.fields, seed=run.seed, folder=folder)
    if (result := read_result(out / folder)) is not None:
        (learned,) = result.strategies
        bare = Row(scenario=run.scenario, kind="baseline", strategy="", seed=run.seed)
        return [
            attrs.evolve(
                row,
                ex_model=learned.ex_model,
                stream_accuracy=learned.stream_accuracy[-1],
                forgetting=learned.forgetting,
                seconds=round(learned.seconds.total, 3),
            ),
            *(
                attrs.evolve(bare, strategy=one.name, ex_model=one.ex_model, stream_accuracy=one.stream_accuracy)
                for one in result.baselines
                if one.stream_accuracy is not None
            ),
        ]
    return [attrs.evolve(row, error=failure.read_text("utf-8").partition("\n")[0])] if failure.exists() else []


def sweep_table(result: SweepResult) -> Lines:
    """The results: means over seeds with standard deviations, then the errors of failed runs."""
    table = new_table("n", "Stream, %", "Forgot", "seconds")
    groups = result.groups
    for scenario in dict.fromkeys(group.scenario for group in groups):
        for group in (group for group in groups if group.scenario == scenario):
            table.add_row(
                scenario,
                Text(group.label, style="" if group.rows[0].kind == "strategy" else "dim"),
                str(len(group.accuracies)),
                group.text,
                spread([100 * row.forgetting for row in group.rows if row.forgetting is not None]),
                spread([row.seconds for row in group.rows if row.seconds is not None]),
            )
        table.add_section()
    failed = [
        Text(f"failed: {row.scenario} {label_of(row.strategy, row.fields)} seed {row.seed}: {row.error}", style="red")
        for row in result.failed
    ]
    if failed:
        failed = [Text(""), *failed, Text("The full errors are in failures/, the output of the runs in logs/.")]
    return Lines(table, *failed)


def comparison_figure(result: SweepResult) -> Figure:
    """Stream accuracy of each strategy and combination of fields: every seed, the mean and the standard deviation.

    Each scenario has a panel, with the means of its baselines as lines.
    """
    groups = result.groups
    scenarios = list(dict.fromkeys(group.scenario for group in groups))
    labels = list(dict.fromkeys(group.label for group in groups if group.rows[0].kind == "strategy"))
    strategies = list(dict.fromkeys(row.strategy for row in result.rows if row.kind == "strategy"))
    names = dict.fromkeys(row.strategy for row in result.rows if row.kind == "baseline")
    baselines = dict(zip(names, itertools.cycle(DASHES), strict=False))
    across = max(1, min(ACROSS, len(scenarios)))
    down = max(1, -(-len(scenarios) // across))
    longest = max((len(label) for label in labels), default=0)
    figure = new_figure(0.4 + 0.066 * longest + 4.4 * across, max(2.6, 1.5 + down * (0.9 + 0.25 * len(labels))))
    axes = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis in axes[len(scenarios) :]:
        axis.set_visible(False)
    for axis, scenario in zip(axes, scenarios, strict=False):
        for group in (group for group in groups if group.scenario == scenario):
            if group.rows[0].kind == "baseline":
                look = {"color": "#777777", "linestyle": baselines[group.label], "linewidth": 1.1}
                axis.axvline(statistics.fmean(group.accuracies), **look)
            else:
                _draw(axis, group, labels.index(group.label), strategies.index(group.rows[0].strategy))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
        axis.set_title(fitted(scenario, 4.0, 10), fontsize=10, loc="left")
        axis.set_xlabel("stream accuracy (Eq. 2), %", fontsize=9)
        axis.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    n = max((len(group.accuracies) for group in groups), default=0)
    figure.suptitle(f"Mean ± standard deviation over {n} seed(s), one dot per seed", fontsize=10)
    handles = [Line2D([], [], color="#777777", linestyle=dash, label=name) for name, dash in baselines.items()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure


def _draw(axis: Any, group: Group, place: int, number: int) -> None:
    """One row: dots, mean and standard deviation, and the numbers on the right."""
    color, values = COLORS[number % len(COLORS)], group.accuracies
    if values:
        axis.scatter(values, [place] * len(values), s=12, color=color, alpha=0.35, linewidths=0)
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        look = {"fmt": MARKERS[number % len(MARKERS)], "color": color, "ms": 5, "capsize": 2.5, "lw": 1.2}
        axis.errorbar(statistics.fmean(values), place, xerr=deviation, **look)
    style = {"va": "center", "fontsize": 8, "color": "#333333", "transform": axis.get_yaxis_transform()}
    axis.text(1.01, place, group.text, **style)
