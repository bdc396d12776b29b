"""The figures of what is in a folder."""

from __future__ import annotations

from pathlib import Path

from exml import scenarios
from exml.core.errors import CheckpointError, DataError
from exml.core.samples import Samples
from exml.learning.checkpoint import CheckpointFolder
from exml.runs import save_figure
from reproduction.cell import read_cells
from reproduction.figure2 import figure2
from reproduction.figure3 import figure3
from reproduction.layout import PAPER_LAYOUT, Layout
from reproduction.plan import IN_FIGURE_2, PlannedCell, ReproductionPlan


def draw(made: ReproductionPlan, out: Path, layout: Layout = PAPER_LAYOUT) -> None:
    """Write the figures that were asked for, as far as their cells are there."""
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


def _panels(made: ReproductionPlan, out: Path, layout: Layout) -> list[tuple[str, Samples]]:
    """Original images, then the buffers of the first seed's cells."""
    panels: list[tuple[str, Samples]] = []
    rows = {row.name: row for row in layout.rows if row.strategy in IN_FIGURE_2}
    for column in layout.samples:
        mine = [cell for cell in made.cells if _is_drawn(cell, column, made) and cell.cell.row in rows]
        for planned in mine:
            memory = _memory(out / "runs" / planned.run.name / "checkpoint")
            if memory is not None:
                head = layout.column(column).title
                at = "" if planned.cell.budget == 1 else f", budget {planned.cell.budget:g}"
                panels.append((f"{rows[planned.cell.row].title}, {head}{at}", memory))
    try:
        loaded = [scenarios.load(column, made.asked.seeds[0]) for column in layout.samples[:1]]
    except DataError:
        loaded = []
    originals = [(layout.column(scenario.name).title, scenario.experiences[0].test) for scenario in loaded]
    return [(f"Original images ({title.split()[0]})", test) for title, test in originals] + panels if panels else []


def _is_drawn(planned: PlannedCell, column: str, made: ReproductionPlan) -> bool:
    cell = planned.cell
    return cell.column == column and cell.buffer is None and cell.seed == made.asked.seeds[0]


def _memory(folder: Path) -> Samples | None:
    """The buffer of a run that is over."""
    try:
        groups = CheckpointFolder(folder).read()[1]
    except CheckpointError:
        return None
    return Samples.from_state(groups["memory"]).to("cpu") if "memory" in groups else None
