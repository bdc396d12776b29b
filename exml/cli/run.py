"""exml run: learn from the experts of a scenario."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import PRINTING, Flag, Printing, Whole, again, strategies_of
from exml.core.execution import Execution
from exml.distributed import TIMEOUT, join
from exml.engine import keep_freed_memory
from exml.runs import ProgressDisplay, RunSettings, ScenarioExperts, result_table
from exml.runs.folder_lock import require_free
from exml.runs.learn import named
from exml.runs.loggers import LOGGERS, MetricLogger
from exml.runs.record import LOG, RECORD
from exml.scenarios import ScenarioSource


@Parameter(name="*")
@attrs.frozen
class WorkOptions:
    """How the work is done.

    Args:
        seed: Of the scenario, the experts and the students.
        device: As torch names it: 'cpu', 'cuda', 'cuda:1'; 'auto' is an accelerator if there is one.
        compile: 'capture' makes each step of the hot loops one CUDA graph, 'always' compiles the networks as well;
            'auto' tries both where enough work is ahead, and keeps what is fastest.
        precision: Of the networks; 'bfloat16' needs hardware support: most GPUs, CPUs with AVX-512 BF16 or AMX.
        checkpoint_every: Steps of generation or distillation between two checkpoints.
        rank_timeout: Under torchrun, seconds after which a process that does not respond ends the run.
        log: 'tensorboard', 'csv' or both: also write losses, accuracies and generated images into OUT/log.
    """

    seed: Whole = 0
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Whole = 1_000
    rank_timeout: float = TIMEOUT
    log: Annotated[tuple[Literal["tensorboard", "csv"], ...], Parameter(consume_multiple=True, show_default=False)] = ()

    def settings(self) -> RunSettings:
        """The settings of the run."""
        return RunSettings(self.seed, self.device, Execution(self.compile, self.precision), self.checkpoint_every)

    def loggers(self, out: Path) -> list[MetricLogger]:
        """The loggers of ``log``, which write nothing before the run begins."""
        return [LOGGERS[name](out / LOG) for name in dict.fromkeys(self.log)]


WORK = WorkOptions()


@Parameter(name="*")
@attrs.frozen
class StreamOptions:
    """What is measured, and what the learner knows.

    Args:
        split: Images that accuracies are measured on; 'validation' reads no test image.
        start: Whether the learner knows the initial weights of the experts. Calibrations compare these with them, or,
            if they are unknown, with other experts.
    """

    split: Literal["test", "validation"] = "test"
    start: Literal["known", "unknown"] = "known"


STREAM = StreamOptions()


def run(
    scenario: Annotated[str, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    out: Path,
    strategy: str = "exml",
    stream: StreamOptions = STREAM,
    work: WorkOptions = WORK,
    resume: Flag = False,
    dry_run: Flag = False,
    printing: Printing = PRINTING,
) -> None:
    """Learn one student per strategy from a scenario's experts, without their data, and compare it with baselines.

    Writes into the folder: result.json, accuracy.png, the experts, and for each strategy student.safetensors with its
    card, stream.jsonl, samples.png and checkpoints. --resume continues a run that was killed at any moment.
    On several processors or machines: torchrun --nproc-per-node N -m exml run ...

    Args:
        scenario: One of those that 'exml scenarios' lists.
        out: Folder for all output; new or empty, unless the run is resumed.
        strategy: One of those that 'exml strategies' lists, a YAML or JSON file, or several of either, separated by
            commas; all learn from the same experts.
        resume: Continue the run in the folder.
        dry_run: Print how long the run will take, and stop.
    """
    experts, settings = ScenarioExperts(scenario, stream.split, start=stream.start), work.settings()
    strategies = strategies_of(strategy, partial(named, real_data=ScenarioSource(scenario, work.seed)))
    loggers = work.loggers(out)
    keep_freed_memory()
    with resumable(resume):
        with join(timeout=work.rank_timeout) as ranks, stopping() as stop, ExitStack() as stack:
            quiet = printing.quiet or not ranks.leader
            console = attrs.evolve(printing, quiet=quiet).console
            if ranks.leader and not (dry_run or resume):
                require_free(out, RECORD, "run")  # before the forecast takes time
            if dry_run or not (quiet or resume or not ranks.alone):
                settings = attrs.evolve(settings, forecasts=runs.forecasts(experts, strategies, settings))
                for name, expected in settings.forecasts.items():
                    console.print(f"Forecast for {name}: {expected}.", markup=False, soft_wrap=True)
            if dry_run:
                return
            with ProgressDisplay(Console(stderr=True, quiet=quiet)) as display:
                observers = [display, *map(stack.enter_context, loggers)]
                more: dict[str, Any] = {"resume": resume, "stop": stop, "observers": observers, "ranks": ranks}
                result = runs.run(experts, strategies, out, settings=settings, **more)
        if result.stopped:
            raise KeyboardInterrupt
    if ranks.leader:
        printing.show(result.to_dict(), result_table(result, console.width))
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)


@contextmanager
def resumable(resume: bool) -> Generator[None]:
    """An interruption within the block states the command that resumes the run."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; resume with: {again(resumed=resume)}") from None


@contextmanager
def stopping() -> Generator[runs.Stop]:
    """Within the block, SIGINT and SIGTERM ask for a stop; the second signal interrupts at once."""
    stop = runs.Stop()

    def ask(_signal: int, _frame: FrameType | None, /) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.ask()

    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
