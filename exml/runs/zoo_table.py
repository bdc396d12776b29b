"""The tables that ``exml experts evaluate`` ends with."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exml.runs.baselines import BASELINES
from exml.runs.zoo_evaluation import ExpertEvaluation, ZooEvaluation


def zoo_table(evaluation: ZooEvaluation) -> Group:
    """Of each stream the accuracies of its experts, each on its own classes, and those of the baselines, in percent.

    Why an expert has none is in :attr:`ZooEvaluation.faults`.
    """
    longest = max(len(stream.experts) for stream in evaluation.streams)
    own = _table([f"e{place}" for place in range(1, longest + 1)])
    together = _table(list(BASELINES))
    for stream in evaluation.streams:
        cells = [_cell(expert) for expert in stream.experts]
        own.add_row(stream.folder, *cells, *[""] * (longest - len(cells)))
        accuracies = {row.name: row.stream_accuracy for row in stream.baselines}
        together.add_row(stream.folder, *(_percent(accuracies.get(name)) for name in BASELINES))
    images = "test" if evaluation.split == "test" else "validation"
    return Group(
        Text(f"Each expert on the {images} images of its own classes, %", style="bold"),
        own,
        Text(f"\nAll experts of a stream on all {images} images, %", style="bold"),
        together,
    )


def _table(columns: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("stream", overflow="fold")
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="right", vertical="bottom", min_width=5)
    return table


def _cell(expert: ExpertEvaluation) -> str:
    return "fault" if expert.fault is not None else _percent(expert.accuracy)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
