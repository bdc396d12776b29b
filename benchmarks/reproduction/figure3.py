"""Figure 3: accuracy against the size of the buffer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from exml.runs.canvas import COLOURS, MARKERS, fitted, new_figure
from reproduction.cell import Cell
from reproduction.layout import Layout


def figure3(cells: Sequence[Cell], layout: Layout) -> Figure:
    """Mean stream accuracy with its standard deviation, a line for each strategy, sizes on a logarithmic axis.

    One panel for each scenario. What looks at the experts' own data is dashed.

    Args:
        cells: of Figure 3, none of them failed; others are left out.
        layout: of the tables.
    """
    cells = [cell for cell in cells if cell.buffer is not None and cell.error is None]
    scenarios = list(dict.fromkeys(cell.scenario for cell in cells))
    figure = new_figure(2.6 + 4.4 * len(scenarios), 3.8)
    axes = figure.subplots(1, len(scenarios), squeeze=False, sharey=True)[0]
    rows = [row for row in layout.rows if any(cell.row == row.name for cell in cells)]
    for axis, scenario in zip(axes, scenarios, strict=True):
        here = [cell for cell in cells if cell.scenario == scenario]
        for number, row in enumerate(rows):
            points = _points([cell for cell in here if cell.row == row.name])
            axis.errorbar(
                list(points),
                [statistics.fmean(values) for values in points.values()],
                [statistics.stdev(values) if len(values) > 1 else 0.0 for values in points.values()],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="--" if row.strategy == "replay" else "-",
                capsize=3,
                label=row.title,
            )
        seeds, budgets = {cell.seed for cell in here}, {cell.budget for cell in here if cell.budget is not None}
        budget = " and ".join(f"{budget:g}" for budget in sorted(budgets))
        title = f"{scenario}, budget {budget}, up to {len(seeds)} seed(s)"
        axis.set_title(fitted(title, 4.2, 10), fontsize=10, loc="left")
        axis.set_xscale("log")
        axis.set_xticks(sorted({cell.buffer for cell in here if cell.buffer is not None}))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(labelsize=9)
        axis.set_xlabel("samples in the buffer", fontsize=9)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("stream accuracy (Eq. 2), %", fontsize=9)
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
    return figure


def _points(cells: Sequence[Cell]) -> dict[int, list[float]]:
    """Accuracies in percent by size; at each size, those of the highest budget."""
    points: dict[int, list[float]] = {}
    for size in sorted({cell.buffer for cell in cells if cell.buffer is not None}):
        at = [cell for cell in cells if cell.buffer == size]
        highest = max(cell.budget or 0 for cell in at)
        points[size] = [100 * cell.stream_accuracy[-1] for cell in at if (cell.budget or 0) == highest]
    return points
