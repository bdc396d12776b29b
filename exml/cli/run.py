"""exml run: learn from the experts of a scenario, or from a folder of experts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import attrs
from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import Flag, Whole, again, strategies_of, student_of
from exml.core.errors import SettingError, printable
from exml.core.execution import Execution
from exml.distributed import TIMEOUT, join
from exml.engine import keep_freed_memory
from exml.learning.events import Event, ExpertRefused
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES, recipe
from exml.runs import FolderExperts, ProgressDisplay, Result, RunSettings, ScenarioExperts, result_table
from exml.runs.folder_lock import require_free
from exml.runs.record import RECORD
from exml.runs.run import Choice
from exml.runs.table import forecast_lines
from exml.scenarios import ScenarioSource


@Parameter(name="*")
@attrs.frozen
class SourceOptions:
    """Where the experts come from.

    Args:
        stream: Folder of experts (NAME.json and NAME.safetensors each), instead of a scenario.
        follow: Keep learning from experts that arrive in the folder of --stream, until Ctrl-C or SIGTERM.
        student: With --stream: NAME, NAME:setting=value,... or a YAML file; by default the first expert's architecture.
        classes: With --stream: number of outputs of the student, to leave room for classes of later experts.
        split: Images that accuracies are measured on; 'validation' reads no test image.
        on_suspect: What to do with an expert that is probably broken or poisoned: refuse it, warn and learn from it, or
            accept it. The default is that of the strategy: refuse with --follow, warn without.
    """

    stream: Path | None = None
    follow: Flag = False
    student: str | None = None
    classes: Whole | None = None
    split: Literal["test", "validation"] = "test"
    on_suspect: Literal["refuse", "warn", "accept"] | None = None

    def judging(self, choice: Choice) -> Choice:
        """The strategy, or the function that chooses it, with the policy of these options."""
        if self.on_suspect is None:
            return choice
        if isinstance(choice, Strategy):
            return attrs.evolve(choice, on_suspect=self.on_suspect)
        return lambda profile, student: attrs.evolve(choice(profile, student), on_suspect=self.on_suspect)

    def source(self, scenario: str | None) -> ScenarioExperts | FolderExperts:
        """The source that these options and a scenario name; raises SettingError when they contradict each other."""
        lists = "'exml scenarios' lists the scenarios; --stream names a folder of experts"
        for_folders = self.follow or self.student is not None or self.classes is not None
        if self.stream is None:
            if scenario is not None and not for_folders:
                return ScenarioExperts(scenario, self.split)
            expected, got = "a SCENARIO or --stream FOLDER", "neither"
            if scenario is not None:
                expected, got = "--stream with --follow, --student or --classes", f"the scenario {scenario!r}"
            raise SettingError(expected=expected, got=got, remedy=lists)
        if scenario is not None:
            raise SettingError(expected="a SCENARIO or --stream FOLDER", got="both", remedy="leave one of them out")
        if self.split != "test":
            expected = "no --split with --stream, where there is no test data"
            raise SettingError(expected=expected, got=self.split, remedy="leave it out")
        student = None if self.student is None else student_of(self.student)
        return FolderExperts(self.stream, self.follow, student=student, classes=self.classes)


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
    """

    seed: Whole = 0
    device: str = "cpu"
    compile: Literal["never", "capture", "always", "auto"] = "never"
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Whole = 1_000
    rank_timeout: float = TIMEOUT

    def settings(self) -> RunSettings:
        """The settings of the run."""
        return RunSettings(self.seed, self.device, Execution(self.compile, self.precision), self.checkpoint_every)


SOURCE, WORK = SourceOptions(), WorkOptions()


def run(
    scenario: Annotated[str | None, Parameter(allow_leading_hyphen=False)] = None,
    /,
    *,
    out: Path,
    strategy: str = "exml",
    source: SourceOptions = SOURCE,
    work: WorkOptions = WORK,
    resume: Flag = False,
    dry_run: Flag = False,
    quiet: Flag = False,
) -> None:
    """Learn one student per strategy from a scenario's experts, without their data, and compare it with baselines.

    Writes into the folder: result.json, accuracy.png, the experts, and for each strategy student.safetensors with its
    card, stream.jsonl, samples.png and checkpoints. --resume continues a run that was killed at any moment.
    With --stream, the student learns from a folder of other people's experts (NAME.json and NAME.safetensors each);
    there is no test data then.
    On several processors or machines: torchrun --nproc-per-node N -m exml run ...

    Args:
        scenario: One of those that 'exml scenarios' lists.
        out: Folder for all output; new or empty, unless the run is resumed.
        strategy: One of those that 'exml strategies' lists, a YAML or JSON file, or several of either, separated by
            commas; all learn from the same experts.
        resume: Continue the run in the folder.
        dry_run: Print how long the run will take, and stop.
        quiet: Print nothing but errors.
    """
    experts, settings = source.source(scenario), work.settings()
    chosen = strategies_of(strategy, partial(_named, scenario, work.seed))
    strategies = {name: source.judging(choice) for name, choice in chosen.items()}
    keep_freed_memory()
    try:
        with join(timeout=work.rank_timeout) as ranks, stopping() as stop:
            quiet = quiet or not ranks.leader
            console = Console(quiet=quiet, highlight=False)
            if ranks.leader and not (dry_run or resume):
                require_free(out, RECORD, "run")  # before the forecast takes time
            if dry_run or not (quiet or resume or source.follow or not ranks.alone):
                settings = attrs.evolve(settings, forecasts=runs.forecasts(experts, strategies, settings))
                for name, expected in settings.forecasts.items():
                    console.print(f"Forecast for {name}: {expected}.", markup=False, soft_wrap=True)
            if dry_run:
                return
            with ProgressDisplay(Console(stderr=True, quiet=quiet)) as display:
                shown = [_print_refused if quiet else display]
                result = runs.run(
                    experts, strategies, out, settings=settings, resume=resume, stop=stop, observers=shown, ranks=ranks
                )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; resume with: {again(resumed=resume)}") from None
    command = again(resumed=resume)
    if result.stopped and not source.follow:
        raise KeyboardInterrupt(f"; resume with: {command}")
    _print(console, result)
    if result.stopped:
        command = command if (out / RECORD).exists() else command.removesuffix(" --resume")
        console.print(f"Stopped; resume with: {command}", markup=False, soft_wrap=True)
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)


def _print(console: Console, result: Result) -> None:
    if result.scenario is not None:
        console.print(result_table(result, console.width))
        return
    for row in result.strategies:
        console.print(f"Learned from {row.experiences} expert(s); they know {len(row.classes or ())} class(es).")
    for line in forecast_lines(result):
        console.print(line, markup=False, soft_wrap=True)


def _named(scenario: str | None, seed: int, name: str) -> Choice:
    """The recipe of this name for the experts of the source."""
    if name not in RECIPES:
        expected = f"one of {', '.join(RECIPES)}"
        raise SettingError(expected=expected, got=repr(name), remedy="choose one, or give a YAML file")
    real_data = None if scenario is None else ScenarioSource(scenario, seed)
    return lambda profile, student: recipe(name, profile, real_data=real_data, student=student).build()


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


def _print_refused(event: Event, /) -> None:
    if isinstance(event, ExpertRefused):
        sys.stderr.write(f"exml: not learned from: {printable(event.file)}: {event.reason}\n")
