"""The accuracies of a run as a figure."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from exml.runs.canvas import COLOURS, GREY, MARKERS, fitted, new_figure
from exml.runs.result import BaselineResult, Result, StrategyResult


def accuracy_figure(result: Result) -> Figure:
    """Stream accuracies of students and baselines after the stream.

    For several experiences, a second panel shows the stream accuracy of each student after each experience. With a
    single strategy, a third panel shows its accuracy matrix.

    Args:
        result: of a run over a scenario.
    """
    rows = len(result.strategies) + len(result.baselines)
    panels = 1 if len(result.experiences) == 1 else 3 if len(result.strategies) == 1 and not result.shared_test else 2
    width = 1.5 + 4.2 * panels
    figure = new_figure(width, max(3.4, 1.7 + 0.34 * rows))
    title = f"{result.scenario}, seed {result.seed}, {result.split} images"
    figure.suptitle(fitted(title, width, 11), fontsize=11)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _bars(axes[0], result)
    breaks = Patch(facecolor="white", edgecolor="#555555", hatch="///", label="breaks them")
    keeps = Patch(facecolor="#555555", edgecolor="#555555", label="keeps the ex-model constraints (Sec. 2)")
    figure.legend(handles=[keeps, breaks], loc="outside lower left", fontsize=8, ncols=2, frameon=False)
    if panels > 1:
        _lines(axes[1], result)
    if panels > 2:
        _matrix(figure, axes[2], result)
    return figure


def _bars(axis: Any, result: Result) -> None:
    """Stream accuracy, one bar per row; rows that break the constraints of the ex-model scenario are hatched."""
    rows: list[StrategyResult | BaselineResult] = [*result.strategies, *result.baselines]
    for place, row in enumerate(rows):
        student = isinstance(row, StrategyResult)
        accuracy = row.stream_accuracy[-1] if student else row.stream_accuracy
        colour = COLOURS[place % len(COLOURS)] if student else GREY
        if accuracy is not None:
            hatch = None if row.ex_model else "///"
            face = colour if row.ex_model else "white"
            axis.barh(place, 100 * accuracy, color=face, edgecolor=colour, hatch=hatch, height=0.7)
        text = "does not apply" if accuracy is None else f"{100 * accuracy:.1f}"
        axis.text(100 * (accuracy or 0) + 1, place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axis.set(xlim=(0, 115), xticks=range(0, 101, 20), xlabel="stream accuracy (Eq. 2), %")
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axis.set_title("after the whole stream", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["bottom"].set_bounds(0, 100)


def _lines(axis: Any, result: Result) -> None:
    """Stream accuracy of each student after each experience."""
    places = [experience.index for experience in result.experiences]
    for number, row in enumerate(result.strategies):
        axis.plot(
            places,
            [100 * accuracy for accuracy in row.stream_accuracy],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if row.ex_model else "--",
            label=row.name,
            clip_on=False,
        )
    axis.set(ylim=(0, 100), xticks=places, xlabel="experience i", ylabel="accuracy, %")
    tested = "the test set" if result.shared_test else "experiences 1 to i"
    axis.set_title(f"student after experience i, on {tested}", fontsize=9)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    if len(result.strategies) > 1:
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _matrix(figure: Figure, axis: Any, result: Result) -> None:
    """The accuracy matrix of a single student."""
    row = result.strategies[0]
    image = axis.imshow(row.accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    names = [str(experience.index) for experience in result.experiences]
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="test images of experience j", ylabel="after experience i")
    axis.set_title(f"accuracy of {row.name}, %", fontsize=9)
    if len(names) > 12:  # more numbers would not be readable
        figure.colorbar(image, ax=axis, format=PercentFormatter(1))
        return
    for i, accuracies in enumerate(row.accuracy):
        for j, accuracy in enumerate(accuracies):
            colour = "black" if accuracy > 0.5 else "white"
            axis.text(j, i, f"{100 * accuracy:.0f}", ha="center", va="center", fontsize=8, color=colour)
