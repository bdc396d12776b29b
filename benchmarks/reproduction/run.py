"""The whole of it: what ``exml reproduce`` does, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import attrs

from exml.core.errors import CheckpointError
from exml.core.files import write_json, write_text
from exml.learning.events import WaitingForProcess
from exml.runs.folder_lock import lock, require_free
from exml.runs.sweep import Backend, Failure, LocalProcesses, Row, RunEnded, SweepObserver, SweepResult, SweepStarted
from reproduction._commit import commit
from reproduction._measured import measured
from reproduction.cell import Cell, cell_files, read_cell, read_cells
from reproduction.layout import PAPER_LAYOUT, Layout
from reproduction.pictures import draw, draw_figure3
from reproduction.plan import PlannedCell, ReproductionPlan, plan, task_of
from reproduction.record import FILE, read_record
from reproduction.reproduction import Reproduction
from reproduction.table import Table, tables_of
from reproduction.text import as_json, markdown


@attrs.frozen
class Outcome:
    """What came of it.

    Args:
        plan: what was asked for, as it was before the work.
        tables: all of them, of all cells in the folder.
        failed: the cells of this call that have failed.
    """

    plan: ReproductionPlan
    tables: tuple[Table, ...]
    failed: tuple[Cell, ...]


def run(
    asked: Reproduction,
    out: Path | str,
    *,
    experts: Path | str | None = None,
    resume: bool = False,
    backend: Backend | None = None,
    observers: Sequence[SweepObserver] = (),
    layout: Layout = PAPER_LAYOUT,
) -> Outcome:
    """Measure every cell that is not there yet, several at a time, and make tables and figures of all that are.

    The folder gets ``cells/`` with a small file for each cell (:class:`~reproduction.Cell`), ``table.md``,
    ``table.json``, ``figure2.png`` and ``figure3.png``; and, to go on from, ``runs/``, ``logs/`` and ``failures/``. All
    is written atomically. A call that was killed at any moment goes on with ``resume=True``, within a cell, too. The
    same folder may be asked for more, with other settings, in further calls. A cell that fails does not end the others,
    nor does a scenario whose data are not here; a further call begins again what has failed.

    Args:
        asked: the cells.
        out: the folder; new or empty, unless it is gone on with.
        experts: folder of the experts, in it a folder for each scenario and seed; ``out/experts`` by default. Those
            that are there are not trained again.
        resume: go on with the folder.
        backend: what carries out the cells; processes of this machine by default.
        observers: told of every event, as those of a sweep.
        layout: of the tables.

    Raises:
        SettingError: whatever :func:`plan` refuses.
        CheckpointError: the folder holds something already, or nothing to go on with, or cannot be written.
    """
    out = Path(out)
    if not resume:
        require_free(out, FILE, "reproduction")
    elif not (out / FILE).exists():
        raise CheckpointError(
            expected=f"a reproduction in {out}", got="none", remedy="check the path, or begin it without resuming"
        )

    def on_wait() -> None:
        for observer in observers:
            observer(WaitingForProcess(out))

    made = plan(asked, layout=layout)  # its faults come before anything is written
    with lock(out, on_wait if resume else None):
        made = made.seen_in(out)
        for part in (*out.glob(".*.part"), *out.glob("cells/*/.*.part")):  # what a killed process left half-written
            part.unlink(missing_ok=True)
        record = read_record(out)
        record.add(made)
        record.save(out)
        _carry_out(made, out, out / "experts" if experts is None else Path(experts), backend, observers, layout)
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
    """Take the cells of other folders into one, and make its tables anew; nothing is measured.

    Of a cell that is in several, one that did not fail counts, of those the one in the last folder. Figure 2 is copied,
    since it needs buffers, and cells have none.

    Args:
        folders: of reproductions.
        out: the folder; made if need be.
        layout: of the tables.

    Raises:
        CheckpointError: a folder of nothing of the kind, a damaged cell, or ``out`` cannot be written.
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


def _carry_out(
    made: ReproductionPlan,
    out: Path,
    experts: Path,
    backend: Backend | None,
    observers: Sequence[SweepObserver],
    layout: Layout,
) -> None:
    left = made.left
    write_tables(out, layout)
    if not made.cells:
        return
    by_name = {planned.run.name: planned for planned in made.cells}
    tasks = {planned.run.name: task_of(planned, made.asked, out, experts, layout.imports) for planned in left}
    rows = {name: _row(planned, out) for name, planned in by_name.items() if name not in tasks}
    sweep = made.as_sweep()
    for task in tasks.values():
        Path(task.log).unlink(missing_ok=True)
    for observer in observers:
        observer(SweepStarted(sweep, tuple(tasks), out, _result(sweep.columns, rows)))
    if not tasks:
        return
    with closing((backend or LocalProcesses())(list(tasks.values()), made.asked.resources)) as ended:
        for told in ended:
            planned, task = by_name[told.name], tasks[told.name]
            failure = told.failure
            if failure is None and not (Path(task.folder) / "result.json").exists():
                failure = Failure("no result.json came of it; do all machines see the same folder?", "")
            if failure is not None:
                write_text(out / "failures" / f"{told.name}.txt", f"{failure.message}\n\n{failure.details}")
            else:
                (out / "failures" / f"{told.name}.txt").unlink(missing_ok=True)
            measured(planned.cell, task, failure, commit(), out).save(out)
            write_tables(out, layout)
            rows[told.name] = _row(planned, out)
            for observer in observers:
                observer(RunEnded(told.name, _result(sweep.columns, rows)))


def _result(columns: tuple[str, ...], rows: dict[str, Row]) -> SweepResult:
    return SweepResult(columns, tuple(rows.values()))


def _row(planned: PlannedCell, out: Path) -> Row:
    """A cell that is over, as a row of a sweep."""
    run, cell = planned.run, read_cell(out / "cells" / f"{planned.cell.name}.json")
    return Row(
        scenario=run.scenario,
        kind="strategy",
        strategy=run.strategy,
        fields=run.fields,
        seed=run.seed,
        stream_accuracy=cell.stream_accuracy[-1] if cell.stream_accuracy else None,
        forgetting=cell.forgetting,
        seconds=None if cell.seconds is None else cell.seconds.total,
        error=cell.error,
        folder=f"runs/{run.name}",
    )
