"""Figures 2 and 3, from the buffers and the cells in a folder."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor

from exml import scenarios
from exml.core.errors import CheckpointError, DataError
from exml.core.samples import Samples
from exml.learning.checkpoint import CheckpointFolder
from exml.runs import save_figure
from exml.runs.figures import COLORS, MARKERS, fitted, new_figure
from reproduction.cells import Cell, read_cells
from reproduction.layout import PAPER_LAYOUT, Layout
from reproduction.plan import IN_FIGURE_2, ReproductionPlan

ACROSS, DOWN = 10, 2
"""Classes in a row of Figure 2, at most, and images of each below each other."""


def draw(made: ReproductionPlan, out: Path, layout: Layout = PAPER_LAYOUT) -> None:
    """Write the requested figures from the cells that were measured."""
    if "figure2" in made.asked.parts:
        panels = _panels(made, out, layout)
        if panels:
            save_figure(figure2(panels), out / "figure2.png")
    draw_figure3(out, layout)


def draw_figure3(out: Path, layout: Layout = PAPER_LAYOUT) -> None:
    """Write Figure 3 if the folder has a cell of it."""
    cells = [cell for cell in read_cells(out) if cell.buffer is not None and cell.error is None]
    if cells:
        save_figure(figure3(cells, layout), out / "figure3.png")


def figure2(panels: Sequence[tuple[str, Samples]]) -> Figure:
    """Panels below each other; each has a column per class with some of its images, clamped to [0, 1]."""
    pages = [(title, _page(samples)) for title, samples in panels]
    width = 6.4
    heights = [width * page.shape[0] / page.shape[1] for _, page in pages]
    figure = new_figure(width, sum(heights) + 0.34 * len(pages))
    axes = figure.subplots(len(pages), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, page) in zip(axes, pages, strict=True):
        axis.imshow(page.numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=10, loc="left", pad=3)
        axis.set_axis_off()
    return figure


def _page(samples: Samples) -> Tensor:
    """Images of each class below each other, separated by white lines; white where images are missing."""
    classes = samples.labels.unique()[:ACROSS].tolist()
    height, width = samples.images.shape[2:]
    page = torch.ones(DOWN * (height + 2) - 2, len(classes) * (width + 2) - 2, 3)
    for column, label in enumerate(classes):
        images = samples[(samples.labels == label).nonzero().flatten()[:DOWN]].pixels().float().clamp(0, 1)
        if images.shape[1] != 3:  # show other numbers of channels in gray
            images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        for line, image in enumerate(images):
            top, left = line * (height + 2), column * (width + 2)
            page[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return page


def _panels(made: ReproductionPlan, out: Path, layout: Layout) -> list[tuple[str, Samples]]:
    """Original images, then the buffers of the first seed's cells."""
    panels: list[tuple[str, Samples]] = []
    titles = {row.name: row.title for row in layout.rows if row.strategy in IN_FIGURE_2}
    for column in layout.samples:
        for planned in made.cells:
            cell = planned.cell
            is_drawn = (cell.column, cell.seed, cell.buffer) == (column, made.asked.seeds[0], None)
            if is_drawn and cell.row in titles:
                memory = _memory(out / "runs" / planned.run.name / "checkpoint")
                if memory is not None:
                    at = "" if cell.budget == 1 else f", budget {cell.budget:g}"
                    panels.append((f"{titles[cell.row]}, {layout.column(column).title}{at}", memory))
    if not panels:
        return []
    try:
        first = scenarios.load(layout.samples[0], made.asked.seeds[0])
    except DataError:
        return panels
    title = layout.column(first.name).title.split()[0]
    return [(f"Original images ({title})", first.experiences[0].test), *panels]


def _memory(folder: Path) -> Samples | None:
    """The buffer of a finished run."""
    try:
        groups = CheckpointFolder(folder).read()[1]
    except CheckpointError:
        return None
    return Samples.from_state(groups["memory"]).to("cpu") if "memory" in groups else None


def figure3(cells: Sequence[Cell], layout: Layout) -> Figure:
    """Mean accuracy and its standard deviation against the size of the buffer.

    Each strategy has a line, dashed if it uses real data, and each scenario a panel.
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
                color=COLORS[number % len(COLORS)],
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
    """Accuracies in percent by size, at the highest budget of each size."""
    points: dict[int, list[float]] = {}
    for size in sorted({cell.buffer for cell in cells if cell.buffer is not None}):
        at = [cell for cell in cells if cell.buffer == size]
        highest = max(cell.budget or 0 for cell in at)
        points[size] = [100 * cell.stream_accuracy[-1] for cell in at if (cell.budget or 0) == highest]
    return points
