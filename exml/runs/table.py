"""Tables and lines about runs: accuracies of a scenario, and experts and plan of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from exml.core.errors import printable
from exml.experts import Entry, ExpertCard
from exml.runs.forecast import duration
from exml.runs.result import ExperienceResult, Result, StrategyResult
from exml.runs.sources import OpenExperts

LONGEST, NARROWEST, SHOWN = 24, 5, 12
"""Maximum width of a name; minimum width of a percentage; most labels of an expert."""


def result_table(result: Result, width: int = 80) -> Group:
    """The accuracies of a run in percent, with notes that explain them.

    Columns of experiences that do not fit the width follow in further tables.

    Args:
        result: of a run over a scenario.
        width: characters per line.
    """
    names = [row.name for row in (*result.strategies, *result.baselines)]
    fixed = [min(LONGEST, max(map(len, names))), len("model"), len("Stream"), len("Forgot")]
    several = len(result.experiences) > 1 and not result.shared_test
    widths = [_width(_head(experience)) for experience in result.experiences] if several else []
    roomy = sum(fixed) + sum(widths) + 2 * (3 + len(widths)) <= width
    tables = [_table(result, block, roomy) for block in _blocks(widths, width - sum(fixed), gap=2 if roomy else 1)]
    split = "test" if result.split == "test" else "validation"
    title = f"{result.scenario}, seed {result.seed}: accuracy on the {split} images, %"
    return Group(Text(title, style="bold"), *tables, *(Text(line) for line in _notes(result)))


def audit_lines(result: Result) -> list[str]:
    """The diagnosis of each strategy that has one."""
    lines: list[str] = []
    for row in result.strategies:
        if row.audit is None:
            continue
        found = row.audit
        target = f"no target, because {found.reason}"
        if found.distance is not None:
            target = f"target {_percent(found.target)}, student {100 * abs(found.distance):.1f} "
            target += "points below it" if found.distance > 0 else "points above it"
        gap = "" if found.recovered_gap is None else f"; recovered gap {found.recovered_gap:.2f}"
        oracle = "" if found.oracle is None else f", oracle {_percent(found.oracle)}"
        agrees = "" if row.agreement is None else f"; agreement without data {_percent(row.agreement.score)}"
        best = f"best ensemble {_percent(found.ensemble)} ({found.best_ensemble})"
        lines.append(f"{row.name}: {target}; {best}{oracle}{gap}{agrees}.")
    head = "Diagnosis with labeled images and all experts, neither of which a student has, in %:"
    return ["", head, *lines, ""] if lines else []


def forecast_lines(result: Result) -> list[str]:
    """Forecast and measured time of generation and distillation, one line per strategy that has a forecast."""
    lines: list[str] = []
    for row in result.strategies:
        if row.forecast is not None:
            took = row.seconds.generation + row.seconds.distillation
            expected, error = duration(row.forecast.seconds), took / row.forecast.seconds - 1
            lines.append(f"{row.name}: forecast {expected}, took {duration(took)} ({error:+.0%}).")
    return lines


def plan_lines(source: OpenExperts) -> list[str]:
    """What the student will be, and what a user may want to change in the label plan."""
    labels, plan = source.labels, source.plan
    shape = "x".join(map(str, labels.image_shape))
    count = f"{len(source.cards)} expert(s)" if source.names is not None else f"{len(source.cards)} expert(s) so far"
    classes = f"{labels.outputs} {'classes' if labels.labels is None else 'labels'}"
    student = f"student {plan.architecture['name']}, images {shape}"
    return [f"{count}, {classes}; {student}.", *(printable(f"Note: {note}.") for note in labels.notes)]


def experts_table(cards: Mapping[str, ExpertCard], found: Mapping[str, Entry]) -> Table:
    """A row per expert: format, architecture, images, normalization and labels."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("expert", max_width=LONGEST, overflow="fold")
    for head in ("format", "architecture", "images", "mean / std"):
        table.add_column(head, overflow="fold")
    table.add_column("labels", ratio=1, overflow="fold")
    for name, card in cards.items():
        labels = list(map(str, card.classes if card.labels is None else card.labels))
        shown = ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")
        numbers = " / ".join(",".join(f"{number:.3g}" for number in values) for values in (card.mean, card.std))
        architecture = "in the file" if card.architecture is None else card.architecture["name"]
        cells = (name, found[name].format, architecture, "x".join(map(str, card.image_shape)), numbers, shown)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _table(result: Result, block: Sequence[int], roomy: bool) -> Table:
    """The columns of some experiences; the first table also has the columns that concern all of them."""
    first = not block or block[0] == 0
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
    for number, row in enumerate((*result.strategies, *result.baselines), 1):
        if isinstance(row, StrategyResult):
            accuracy, stream, forgot = row.accuracy[-1], row.stream_accuracy[-1], _percent(row.forgetting)
        else:
            accuracy, stream, forgot = row.accuracy, row.stream_accuracy, ""
        cells = [row.name, "yes" if row.ex_model else "no", _percent(stream), forgot] if first else [row.name]
        cells += ["-" if accuracy is None else _percent(accuracy[column]) for column in block]
        style = "bold" if isinstance(row, StrategyResult) and row.ex_model and stream == best else None
        table.add_row(*cells, style=style, end_section=number == len(result.strategies))
    return table


def _notes(result: Result) -> list[str]:
    experiences = "the one test set" if result.shared_test else "the test images of all experiences"
    seconds = result.seconds
    return [
        "",
        f"Stream: over {experiences} (Eq. 2). Forgot: forgetting, in points; a baseline has nothing to forget.",
        "Ex-model: keeps to the constraints of the scenario (Sec. 2), no original data and one expert at a time.",
        *(f"{row.name} does not apply: {row.reason}." for row in result.baselines if row.reason is not None),
        *audit_lines(result),
        f"Seconds: {seconds.experts:.0f} experts, {seconds.generation:.0f} generation, "
        f"{seconds.distillation:.0f} distillation, {seconds.evaluation:.0f} evaluation; {seconds.total:.0f} in all.",
        *forecast_lines(result),
    ]


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _head(experience: ExperienceResult) -> str:
    """Its number and its classes, or their count if they do not fit a narrow column."""
    classes = ",".join(map(str, experience.classes))
    return f"e{experience.index}\n{classes if len(classes) <= NARROWEST else f'{len(experience.classes)} cl'}"


def _width(head: str) -> int:
    return max(NARROWEST, *map(len, head.splitlines()))


def _blocks(widths: Sequence[int], width: int, gap: int) -> list[list[int]]:
    """The columns of each table; the first one leaves room for three others."""
    blocks: list[list[int]] = [[]]
    left = width - 3 * gap
    for index, needed in enumerate(widths):
        left -= needed + gap
        if left < 0 and blocks[-1]:
            blocks.append([])
            left = width - needed - gap
        blocks[-1].append(index)
    return blocks
