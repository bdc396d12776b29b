"""The results of a sweep: one tidy table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from exml.core.files import write_json, write_text
from exml.runs.result import BaselineResult, Result
from exml.runs.sweep._fields import show
from exml.runs.sweep.plan import Plan, PlannedRun
from exml.runs.sweep.task import failure_file


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
    fields: Mapping[str, Any]
    seed: int
    ex_model: bool | None = None
    stream_accuracy: float | None = None
    forgetting: float | None = None
    seconds: float | None = None
    error: str | None = None
    folder: str | None = None


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
            fields = {path: row.fields.get(path) for path in self.columns}
            head = {name: plain.pop(name) for name in ("scenario", "kind", "strategy")}
            records.append({**head, **fields, **plain})
        return records

    def save(self, folder: Path | str) -> None:
        """Write ``results.csv`` and ``results.json`` atomically.

        Raises:
            CheckpointError: when they cannot be written.
        """
        records = self.records()
        names = [field.name for field in attrs.fields(Row) if field.name != "fields"]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*names[:3], *self.columns, *names[3:]], lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerow({name: value if _is_simple(value) else show(value) for name, value in record.items()})
        write_text(Path(folder) / "results.csv", text.getvalue())
        write_json(Path(folder) / "results.json", records)


class Gathering:
    """Reads the results of a sweep, each once.

    Args:
        plan: of the sweep.
        folder: of the sweep.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._rows: dict[str, Row] = {}
        self._baselines: dict[tuple[str, int], list[Row]] = {}

    def __call__(self) -> SweepResult:
        """The table with all runs finished so far."""
        for run in self._plan.runs:
            if run.name not in self._rows:
                self._read(run)
        rows = [self._rows[run.name] for run in self._plan.runs if run.name in self._rows]
        sweep = self._plan.sweep
        pairs = [(scenario, seed) for scenario in sweep.scenarios for seed in sweep.seeds]
        baselines = [row for pair in pairs for row in self._baselines.get(pair, ())]
        return SweepResult(self._plan.columns, (*rows, *baselines))

    def _read(self, run: PlannedRun) -> None:
        folder, failure = f"runs/{run.name}", failure_file(self._folder, run.name)
        row = Row(scenario=run.scenario, strategy=run.strategy, fields=run.fields, seed=run.seed, folder=folder)
        if (self._folder / folder / "result.json").exists():
            result = Result.load(self._folder / folder / "result.json")
            (learned,) = result.strategies
            self._rows[run.name] = attrs.evolve(
                row,
                ex_model=learned.ex_model,
                stream_accuracy=learned.stream_accuracy[-1],
                forgetting=learned.forgetting,
                seconds=round(learned.seconds.total, 3),
            )
            rows = [_baseline(run, found) for found in result.baselines if found.stream_accuracy is not None]
            self._baselines.setdefault((run.scenario, run.seed), rows)
        elif failure.exists():
            message = failure.read_text(encoding="utf-8").partition("\n")[0]
            self._rows[run.name] = attrs.evolve(row, error=message)


def _baseline(run: PlannedRun, found: BaselineResult) -> Row:
    return Row(
        scenario=run.scenario,
        kind="baseline",
        strategy=found.name,
        fields={},
        seed=run.seed,
        ex_model=found.ex_model,
        stream_accuracy=found.stream_accuracy,
    )


def _is_simple(value: Any) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
