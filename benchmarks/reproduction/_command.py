"""exml reproduce: the paper's tables and figures made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import reproduction
from exml.cli.arguments import Flag, Whole, again
from exml.core.errors import SettingError
from exml.runs import sweep as sweeps
from exml.runs.sweep import LocalProcesses, RayCluster, Resources, SweepDisplay, plan_line, plan_table
from reproduction import PAPER_LAYOUT, Reproduction
from reproduction.text import spread


def reproduce(
    *what: Literal["table2", "table3", "figure2", "figure3"],
    out: Path,
    scenarios: str = "",
    strategies: str = "",
    recipes: str = "paper",
    seeds: str = "5",
    budget: float = 1.0,
    own_budget: float | None = None,
    expert_epochs: Whole | None = None,
    expert_training: str = "",
    experts: Path | None = None,
    figure3_scenario: str = "cifar10-mt",
    buffer_sizes: str = "10,50,100,500,1000,5000",
    device: str = "cpu",
    compile: Literal["never", "capture", "always", "auto"] = "never",
    precision: Literal["float32", "bfloat16"] = "float32",
    threads: Whole = 1,
    backend: Literal["local", "ray"] = "local",
    workers: Whole | None = None,
    address: str | None = None,
    dry_run: Flag = False,
    resume: Flag = False,
    only_tables: Flag = False,
    take_from: Annotated[tuple[Path, ...], Parameter(name="--from")] = (),
    quiet: Flag = False,
) -> int:
    """Measure the cells of the paper's tables and figures again, and set them beside the paper's own.

    Trains or finds the experts, runs every scenario with every strategy and seed, and writes into the folder table.md,
    table.json, figure2.png, figure3.png, and a small file for each cell. A call that was killed at any moment goes on
    with --resume, within a cell, too; so does a further call with other scenarios, strategies or budgets into the same
    folder. A cell that fails does not end the others; then the exit code is 1, and --resume begins it again. A scenario
    whose data are not there has cells that say so.

    Args:
        what: Tables and figures; both tables by default.
        out: Folder for everything that comes out; new or empty, unless it is gone on with.
        scenarios: Columns, separated by commas, in the order in which they are begun; by default all of the tables.
        strategies: Rows, separated by commas: baselines, model-inversion, data-impression, auxiliary, replay, noise,
            exml; by default all.
        recipes: paper for the settings of the paper's text, reference for those of its code, or both with a comma.
        seeds: How many, from 0, or a list with commas.
        budget: Share of the arithmetic, in (0, 1]: iterations of a distillation times this; the buffer and the
            iterations of an inversion each times its square root.
        own_budget: The same for our own recipe, which takes minutes where the paper's take hours; by default as budget.
        expert_epochs: Of the experts, instead of those of appendix A.
        expert_training: Other settings of the experts' training, such as learning_rate=0.05,schedule=cosine.
        experts: Folder of the experts, one SCENARIO-SEED for each stream; OUT/experts by default.
        figure3_scenario: The scenario of Figure 3.
        buffer_sizes: Those of Figure 3, separated by commas.
        device: Where to work, as torch names it: 'cpu' or 'cuda'.
        compile: 'capture' makes each step of the hot loops one CUDA graph, 'always' compiles the networks as well;
            'auto' tries where enough work is ahead, and keeps what is fastest.
        precision: Of the networks; 'bfloat16' is for devices that have it: most GPUs, CPUs with AVX-512 BF16 or AMX.
        threads: Processor cores of each cell.
        backend: Processes of this machine, or Ray (pip install exml[ray]).
        workers: Cells at a time; by default as many as there is room for, on a GPU one each.
        address: Of a running Ray cluster; without it Ray is started on this machine.
        dry_run: List the cells, what there is of them, and the time that the rest will take, and stop.
        resume: Go on with the folder, also with other arguments.
        only_tables: Make tables and figures of the cells that there are, and stop.
        take_from: With --only-tables: folders whose cells are taken into OUT first.
        quiet: Print nothing but errors.
    """
    console = Console(quiet=quiet, highlight=False)
    if address is not None and backend != "ray":
        raise SettingError(expected="--backend ray, since there is an --address", got=backend, remedy="add it")
    if take_from and not only_tables:
        raise SettingError(
            expected="--only-tables, since there is a --from", got="none", remedy="add it, for nothing is measured then"
        )
    if only_tables:
        _show(console, reproduction.gather(take_from, out), out)
        return 0
    epochs = [] if expert_epochs is None else [f"epochs={expert_epochs}"]
    asked = Reproduction(
        parts=tuple(dict.fromkeys(what)) or PAPER_LAYOUT.tables,
        scenarios=_names(scenarios),
        strategies=_names(strategies),
        recipes=_names(recipes),  # pyright: ignore[reportArgumentType]  # checked there
        seeds=_seeds(seeds),
        budget=budget,
        own_budget=own_budget,
        training=",".join([*epochs, *_names(expert_training)]),
        figure3_scenario=figure3_scenario,
        buffer_sizes=_whole(buffer_sizes, "buffer_sizes"),
        device=device,
        compile=compile,
        precision=precision,
        resources=Resources(cpus=threads, gpus=_gpus(device, workers)),
    )
    errors = Console(stderr=True, quiet=quiet)
    if dry_run:
        _foresee(
            reproduction.plan(asked, out), console, errors, workers if backend == "ray" else len(_slots(asked, workers))
        )
        return 0
    try:
        with SweepDisplay(errors) as display:
            outcome = reproduction.run(
                asked,
                out,
                experts=experts,
                resume=resume,
                backend=LocalProcesses(workers) if backend == "local" else RayCluster(address, workers),
                observers=[display],
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; go on with: {again(resumed=resume)}") from None
    _show(console, outcome.tables, out)
    for line in _absent(outcome.plan):
        console.print(line, markup=False, soft_wrap=True)
    for cell in outcome.failed:
        errors.print(f"failed: {cell.name}: {cell.error}", markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.failed else 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _whole(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise SettingError(expected=f"whole numbers for {name}", got=repr(text), remedy="correct it") from None


def _seeds(text: str) -> tuple[int, ...]:
    """``"3"`` are three, ``"3,"`` is number 3."""
    numbers = _whole(text, "seeds")
    return numbers if "," in text else tuple(range(sum(numbers)))


def _gpus(device: str, workers: int | None) -> float:
    """What each cell has of them."""
    if not device.startswith("cuda"):
        return 0.0
    there = max(1, torch.cuda.device_count())
    return 1.0 if workers is None or workers <= there else 1.0 / -(-workers // there)


def _slots(asked: Reproduction, workers: int | None) -> list[str | None]:
    return LocalProcesses(workers).slots(asked.resources)


def _absent(made: reproduction.ReproductionPlan) -> list[str]:
    """What cannot be measured, in a line for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for (column, row), reason in made.absent.items():
        whole = all((column, other) in made.absent for name, other in made.wanted if name == column)
        reasons.setdefault(reason, {})[column if whole else f"{row} of {column}"] = None
    return [f"Not measured: {', '.join(names)}: {reason}." for reason, names in reasons.items()]


def _foresee(made: reproduction.ReproductionPlan, console: Console, errors: Console, at_once: int | None) -> None:
    for line in _absent(made):
        console.print(line, markup=False, soft_wrap=True)
    if made.cells:
        sweep = made.as_sweep()
        with errors.status("Measuring each strategy for a moment"):
            known = sweeps.forecast(sweep, retry_failed=True)
        console.print(plan_table(sweep, known))
        console.print(plan_line(sweep, known, at_once), markup=False, soft_wrap=True)


def _show(console: Console, tables: tuple[reproduction.Table, ...], out: Path) -> None:
    """What was measured; the files have the rest."""
    for table in tables:
        columns = [column for column in table.columns if column.scenario is not None]
        if not columns:
            continue
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        shown.add_column(table.name.replace("table", "Table "))
        for column in columns:
            shown.add_column(column.title, justify="right")
        for row in table.rows:
            entries = [table.entries[row.name, column.name] for column in columns]
            if any(entry.mean is not None for entry in entries):
                shown.add_row(row.title, *map(_cell, entries))
        console.print(shown)
    console.print(f"Ours over the paper's; why a cell is empty, and the conditions: {out / 'table.md'}.", markup=False)


def _cell(entry: reproduction.Entry) -> Text:
    ours = "-" if entry.mean is None else f"{spread(entry.mean, entry.deviation)} ({len(entry.seeds)})"
    return Text(ours).append(f"\n{'' if entry.paper is None else spread(*entry.paper)}", style="dim")
