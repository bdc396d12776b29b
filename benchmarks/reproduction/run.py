"""Carries out a reproduction, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs

from exml.core.errors import CheckpointError
from exml.core.files import write_json, write_text
from exml.learning.events import Observer, WaitingForProcess
from exml.runs import Executor, Failure, LocalProcesses
from exml.runs.folder_lock import lock
from exml.runs.jobs import to_all
from exml.runs.sweep import carry_out, require_usable
from reproduction.cells import FILE, Cell, cell_files, measured, read_cell, read_cells, read_record
from reproduction.layout import PAPER_LAYOUT, Layout
from reproduction.pictures import draw, draw_figure3
from reproduction.plan import Reproduction, ReproductionPlan, plan
from reproduction.tables import Table, as_json, markdown, tables_of


@attrs.frozen
class Outcome:
    """The plan of a call, all tables of the folder, and the cells of this call that failed."""

    plan: ReproductionPlan
    tables: tuple[Table, ...]
    failed: tuple[Cell, ...]


def run(
    asked: Reproduction,
    out: Path | str,
    *,
    resume: bool = False,
    executor: Executor | None = None,
    observers: Sequence[Observer] = (),
    layout: Layout = PAPER_LAYOUT,
) -> Outcome:
    """Measure every missing cell, several at a time, and make tables and figures of all cells in the folder.

    The folder gets ``cells/`` with a small file for each cell (:class:`~reproduction.Cell`), ``table.md``,
    ``table.json``, ``figure2.png`` and ``figure3.png``; and, to resume from, ``runs/``, ``logs/`` and ``failures/``.
    All files are written atomically. A killed call resumes with ``resume=True``, also within a cell. Further calls may
    request more cells, with other settings, in the same folder; they retry failed cells. A cell that fails does not
    stop the others, nor does a scenario whose data are missing.

    Raises:
        SettingError: :func:`plan` raises it.
        CheckpointError: the folder holds something else, has nothing to resume, or cannot be written.
    """
    out = Path(out)
    emit = to_all(observers)
    require_usable(out, FILE, "reproduction", resume=resume)
    made = plan(asked, layout=layout)  # raises before anything is written
    with lock(out, partial(emit, WaitingForProcess(out)) if resume else None):
        made = made.seen_in(out)
        record = read_record(out)
        record.add({key: made.absent.get(key) for key in made.wanted})
        record.save(out)
        write_tables(out, layout)
        cells = {planned.run.name: planned.cell for planned in made.cells}

        def finish(name: str, failure: Failure | None) -> str:
            planned = cells[name]
            cell = measured(planned, out / "runs" / name, made.experts(planned, out), failure)
            cell.save(out)
            write_tables(out, layout)
            return f"stream accuracy {cell.stream_accuracy[-1]:.1%}" if cell.stream_accuracy else ""

        carry_out(made.jobs(out), len(made.cells), executor or LocalProcesses(), asked.resources, out, finish, emit)
        draw(made, out, layout)
        names = {planned.cell.name for planned in made.cells}
        failed = tuple(cell for cell in read_cells(out) if cell.error is not None and cell.name in names)
        return Outcome(made, write_tables(out, layout), failed)


def write_tables(out: Path, layout: Layout = PAPER_LAYOUT) -> tuple[Table, ...]:
    """Make the tables of the cells in a folder, and write ``table.md`` and ``table.json`` there."""
    tables = tables_of(read_cells(out), read_record(out).reasons, layout)
    write_json(out / "table.json", as_json(tables, layout))
    write_text(out / "table.md", markdown(tables, layout))
    return tables


def gather(folders: Sequence[Path], out: Path, layout: Layout = PAPER_LAYOUT) -> tuple[Table, ...]:
    """Copy the cells of other folders into one, and make its tables again; nothing is measured.

    If a cell is in several folders, the last one that did not fail counts. Figure 2 is copied, since it needs buffers,
    which cells do not have.

    Raises:
        CheckpointError: a folder holds no reproduction, a cell is damaged, or ``out`` cannot be written.
    """
    record = read_record(out)
    for folder in folders:
        files = list(cell_files(folder))
        if not files and not (folder / FILE).exists():
            expected, remedy = f"a reproduction in {folder}", "name the folder of a reproduction"
            raise CheckpointError(expected=expected, got="none", remedy=remedy)
        for file in files:
            cell, mine = read_cell(file), out / "cells" / file.relative_to(folder / "cells")
            if mine.exists() and mine.read_bytes() == file.read_bytes():
                continue
            if cell.error is None or not mine.exists() or read_cell(mine).error is not None:
                cell.save(out)
        record.merge(read_record(folder))
        if (folder / "figure2.png").exists():
            (out / "figure2.png").write_bytes((folder / "figure2.png").read_bytes())
    record.save(out)
    draw_figure3(out, layout)
    return write_tables(out, layout)
