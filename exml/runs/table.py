"""The table at the end of a run over a scenario."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exml.runs.forecast import duration
from exml.runs.result import BaselineResult, ExperienceResult, Result, StrategyResult

LONGEST = 24
"""Maximum width of a name; longer ones are cut."""
NARROWEST = 5
"""Width of a percentage."""


def result_table(result: Result, width: int = 80) -> Group:
    """The accuracies of a run in percent, with notes that explain them.

    Columns of experiences that do not fit the width follow in further tables.

    Args:
        result: of a run over a scenario.
        width: characters per line.
    """
    rows = [*result.strategies, *result.baselines]
    fixed = [min(LONGEST, max(len(row.name) for row in rows)), len("model"), len("Stream"), len("Forgot")]
    several = len(result.experiences) > 1 and not result.shared_test
    columns = [_head(experience) for experience in result.experiences] if several else []
    roomy = sum(fixed) + sum(map(_width, columns)) + 2 * (3 + len(columns)) <= width
    blocks = _blocks(columns, width - sum(fixed), gap=2 if roomy else 1)
    split = "test" if result.split == "test" else "validation"
    title = f"{result.scenario}, seed {result.seed}: accuracy on the {split} images, %"
    tables = [_table(result, rows, block, roomy, first=index == 0) for index, block in enumerate(blocks)]
    return Group(Text(title, style="bold"), *tables, *(Text(line) for line in _notes(result)))


def _table(
    result: Result, rows: Sequence[StrategyResult | BaselineResult], block: Sequence[int], roomy: bool, *, first: bool
) -> Table:
    """The columns of some experiences; the first table also has the columns that concern all of them."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, int(roomy)), pad_edge=False, show_edge=False)
    table.add_column("", max_width=LONGEST, no_wrap=True, overflow="ellipsis", vertical="bottom")
    if first:
        table.add_column("Ex-\nmodel", vertical="bottom")
        table.add_column("Stream", justify="right", vertical="bottom")
        table.add_column("Forgot", justify="right", vertical="bottom")
    for column in block:
        head = _head(result.experiences[column])
        table.add_column(head, justify="right", min_width=NARROWEST, vertical="bottom")
    best = max((row.stream_accuracy[-1] for row in result.strategies if row.ex_model), default=None)
    for number, row in enumerate(rows):
        if isinstance(row, StrategyResult):
            accuracy, stream, forgetting = row.accuracy[-1], row.stream_accuracy[-1], _percent(row.forgetting)
        else:
            accuracy, stream, forgetting = row.accuracy, row.stream_accuracy, ""
        cells = [row.name]
        if first:
            cells += ["yes" if row.ex_model else "no", _percent(stream), forgetting]
        cells += ["-" if accuracy is None else _percent(accuracy[column]) for column in block]
        style = "bold" if isinstance(row, StrategyResult) and row.ex_model and stream == best else None
        table.add_row(*cells, style=style, end_section=number == len(result.strategies) - 1)
    return table


def _notes(result: Result) -> list[str]:
    """What a reader needs to understand the table."""
    experiences = "the one test set" if result.shared_test else "the test images of all experiences"
    lines = [
        "",
        f"Stream: over {experiences} (Eq. 2). Forgot: forgetting, in points; a baseline has nothing to forget.",
        "Ex-model: keeps to the constraints of the scenario (Sec. 2), no original data and one expert at a time.",
    ]
    lines += [f"{row.name} does not apply: {row.reason}." for row in result.baselines if row.reason is not None]
    seconds = result.seconds
    lines.append(
        f"Seconds: {seconds.experts:.0f} experts, {seconds.generation:.0f} generation, "
        f"{seconds.distillation:.0f} distillation, {seconds.evaluation:.0f} evaluation; {seconds.total:.0f} in all."
    )
    return [*lines, *forecast_lines(result)]


def forecast_lines(result: Result) -> list[str]:
    """Forecast and measured time of generation and distillation, one line per strategy that has a forecast."""
    lines: list[str] = []
    for row in result.strategies:
        if row.forecast is not None:
            took = row.seconds.generation + row.seconds.distillation
            expected, error = duration(row.forecast.seconds), took / row.forecast.seconds - 1
            lines.append(f"{row.name}: forecast {expected}, took {duration(took)} ({error:+.0%}).")
    return lines


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _head(experience: ExperienceResult) -> str:
    """Its number and its classes, or their count if they do not fit a narrow column."""
    classes = ",".join(map(str, experience.classes))
    short = classes if len(classes) <= NARROWEST else f"{len(experience.classes)} cl"
    return f"e{experience.index}\n{short}"


def _width(head: str) -> int:
    return max(NARROWEST, *map(len, head.splitlines()))


def _blocks(columns: Sequence[str], width: int, gap: int) -> list[list[int]]:
    """The columns of each table; the first one leaves room for three others."""
    blocks: list[list[int]] = [[]]
    left = width - 3 * gap
    for index, head in enumerate(columns):
        left -= _width(head) + gap
        if left < 0 and blocks[-1]:
            blocks.append([])
            left = width - _width(head) - gap
        blocks[-1].append(index)
    return blocks
