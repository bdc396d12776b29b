"""Carries out a reproduction, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from exml.core.errors import CheckpointError
from exml.core.files import write_json, write_text
from exml.learning.events import Event, Observer, WaitingForProcess
from exml.runs import Executor, Failure, LocalProcesses
from exml.runs.folder_lock import lock, require_free
from exml.runs.sweep import Task, carry_out
from reproduction.cell import Cell, cell_files, read_cell, read_cells
from reproduction.layout import PAPER_LAYOUT, Layout
from reproduction.measured import measured
from reproduction.pictures import draw, draw_figure3
from reproduction.plan import ReproductionPlan, plan
from reproduction.record import FILE, read_record
from reproduction.reproduction import Reproduction
from reproduction.table import Table, tables_of
from reproduction.text import as_json, markdown


@attrs.frozen
class Outcome:
    """The outcome of a call.

    Args:
        plan: the request and the status of its cells before the work.
        tables: all tables, of all cells in the folder.
        failed: the cells of this call that failed.
    """

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

    Args:
        asked: the request.
        out: the folder; new or empty unless it is resumed.
        resume: continue in the folder.
        executor: carries out the cells; processes of this machine by default.
        observers: called with every event.
        layout: of the tables.

    Raises:
        SettingError: when :func:`plan` raises it.
        CheckpointError: when the folder holds something else, has nothing to resume, or cannot be written.
    """
    out = Path(out)
    if not resume:
        require_free(out, FILE, "reproduction")
    elif not (out / FILE).exists():
        raise CheckpointError(
            expected=f"a reproduction in {out}", got="none", remedy="check the path, or begin it without resuming"
        )

    def emit(event: Event) -> None:
        for observer in observers:
            observer(event)

    made = plan(asked, layout=layout)  # raises before anything is written
    with lock(out, (lambda: emit(WaitingForProcess(out))) if resume else None):
        made = made.seen_in(out)
        for part in (*out.glob(".*.part"), *out.glob("cells/*/.*.part")):  # half-written files of a killed process
            part.unlink(missing_ok=True)
        record = read_record(out)
        record.add(made)
        record.save(out)
        write_tables(out, layout)
        cells = made.tasks(out)

        def finish(task: Task, failure: Failure | None) -> str:
            cell = measured(cells[task.name][0], task, failure, out)
            cell.save(out)
            write_tables(out, layout)
            return f"stream accuracy {cell.stream_accuracy[-1]:.1%}" if cell.stream_accuracy else ""

        tasks = [task for _, task in cells.values()]
        carry_out(tasks, len(made.cells), executor or LocalProcesses(), asked.resources, out, finish, emit)
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

    Args:
        folders: of reproductions.
        out: the folder; created if necessary.
        layout: of the tables.

    Raises:
        CheckpointError: when a folder holds no reproduction, a cell is damaged, or ``out`` cannot be written.
    """
    record = read_record(out)
    for folder in folders:
        files = list(cell_files(folder))
        if not files and not (folder / FILE).exists():
            raise CheckpointError(
                expected=f"a reproduction in {folder}", got="none", remedy="name the folder of a reproduction"
            )
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
