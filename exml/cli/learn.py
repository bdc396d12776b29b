"""exml learn: one student from a folder of experts."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import PRINTING, Flag, Printing, again, strategies_of
from exml.cli.run import WORK, WorkOptions, resumable, stopping
from exml.core.errors import SettingError, printable
from exml.distributed import join
from exml.engine import keep_freed_memory
from exml.learning.events import Event, ExpertRefused
from exml.learning.strategy import Strategy
from exml.runs import FolderExperts, LabelChoices, ProgressDisplay, Result, agreement_table
from exml.runs.folder_lock import require_free
from exml.runs.learn import load_plan, named, require_alone, scheduled, unscaled
from exml.runs.record import RECORD, begun
from exml.runs.run import Choice
from exml.runs.student_plan import architecture_of
from exml.runs.table import forecast_lines, plan_lines

Folder = Annotated[Path, Parameter(allow_leading_hyphen=False)]
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)]


@Parameter(name="*")
@attrs.frozen
class StudentOptions:
    """What the student is, and what becomes of the labels and images of the experts.

    Args:
        student: NAME, NAME:setting=value,... or a YAML file with a name and settings; NAME may be torchvision/NAME or
            timm/NAME. By default the first expert's architecture, or a conv-net for images of up to 64 pixels.
        plan: The file that 'exml plan' wrote, in place of the options below.
        rename: OLD=NEW, one or more: the student's label for a label of the experts.
        keep: EXPERT:LABEL,LABEL, one or more: the only labels to be learned from an expert.
        drop: EXPERT:LABEL,LABEL, one or more: labels not to be learned from an expert.
        image_shape: CHANNELS,HEIGHT,WIDTH of the student's images; by default the plan chooses.
    """

    student: str | None = None
    plan: Path | None = None
    rename: Several = ()
    keep: Several = ()
    drop: Several = ()
    image_shape: str | None = None

    def source(self, folder: Path, *, follow: bool = False, trust: bool = False) -> FolderExperts:
        """The experts of a folder for this student; a SettingError names an option that cannot be read."""
        choices = LabelChoices(
            rename=dict(_pair("--rename", text, "=", "OLD=NEW") for text in self.rename),
            keep={name: text.split(",") for name, text in (_labels("--keep", text) for text in self.keep)},
            drop={name: text.split(",") for name, text in (_labels("--drop", text) for text in self.drop)},
            image_shape=None if self.image_shape is None else _shape(self.image_shape),
            plan=None if self.plan is None else load_plan(self.plan),
        )
        student = None if self.student is None else architecture_of(self.student)
        return FolderExperts(folder, follow, student=student, labels=choices, trust=trust)


@Parameter(name="*")
@attrs.frozen
class LearnOptions:
    """How the student learns.

    Args:
        strategy: One of those that 'exml strategies' lists, or a YAML or JSON file. Several, separated by commas,
            train a student each in OUT/NAME; the one that agrees best with the experts is also saved in OUT.
        budget: Minutes for the whole work; a strategy that would take longer is scaled down.
        on_suspect: What to do with an expert that is probably broken or poisoned: refuse it, warn and learn from it, or
            accept it. The default is that of the strategy: refuse with --follow, warn without.
        follow: Keep learning from experts that arrive in the folder, until Ctrl-C or SIGTERM.
        trust: Also load formats that execute code when they are loaded: .pt2 and TorchScript.
    """

    strategy: str = "exml"
    budget: float | None = None
    on_suspect: Literal["refuse", "warn", "accept"] | None = None
    follow: Flag = False
    trust: Flag = False

    def chosen(self) -> dict[str, Choice]:
        """The strategies by name, or functions that choose them, with the policy of these options."""
        return {name: self._with_policy(choice) for name, choice in strategies_of(self.strategy, named).items()}

    def _with_policy(self, choice: Choice) -> Choice:
        if self.on_suspect is None:
            return choice
        if isinstance(choice, Strategy):
            return attrs.evolve(choice, on_suspect=self.on_suspect)
        return lambda profile, student: attrs.evolve(choice(profile, student), on_suspect=self.on_suspect)


STUDENT, LEARN = StudentOptions(), LearnOptions()


def learn(
    folder: Folder,
    /,
    *,
    out: Path,
    target: StudentOptions = STUDENT,
    options: LearnOptions = LEARN,
    work: WorkOptions = WORK,
    resume: Flag = False,
    dry_run: Flag = False,
    printing: Printing = PRINTING,
) -> None:
    """Learn one student from a folder of other people's classifiers, without their data.

    Reads all experts of the folder in any format, plans the labels of the student, chooses a strategy, and reports at
    the end how well the student agrees with the experts. Writes into OUT: the student (config.json,
    preprocessor_config.json, model.safetensors, README.md), plan.yaml, result.json, stream.jsonl, samples.png and
    checkpoints. --resume continues a run that was killed at any moment.
    On several processors or machines: torchrun --nproc-per-node N -m exml learn ...

    Args:
        folder: Folder of experts: .safetensors, .pth, .pt, .onnx or a Hugging Face folder, each with a card if needed.
        out: Folder for all output; new or empty, unless the run is resumed.
        resume: Continue the run in OUT.
        dry_run: Print the plan and how long the run will take, and stop.
    """
    began = time.monotonic()
    source = target.source(folder, follow=options.follow, trust=options.trust)
    choices = options.chosen()
    settings, loggers = work.settings(), work.loggers(out)
    keep_freed_memory()
    with resumable(resume):
        with join(timeout=work.rank_timeout) as ranks, stopping() as stop, ExitStack() as stack:
            require_alone(source, ranks, options.budget, choices)
            quiet = printing.quiet or not ranks.leader
            console = attrs.evolve(printing, quiet=quiet).console
            if ranks.leader and not (dry_run or resume):
                require_free(out, RECORD, "run")
            opened = source.open(settings.seed, out, stop, begun(out, resume=True) if resume else None)
            if opened is not None:
                say(console, *plan_lines(opened))
            timed = dry_run or options.budget is not None or not (quiet or options.follow or not ranks.alone)
            if options.budget is not None and resume:
                choices = unscaled(choices)
            if opened is not None and timed and not resume:
                choices, expected = scheduled(opened, choices, settings, options.budget, began)
                settings = attrs.evolve(settings, forecasts=expected)
                say(console, *(f"Forecast for {name}: {each}." for name, each in expected.items()))
            if dry_run:
                return
            with ProgressDisplay(Console(stderr=True, quiet=quiet)) as display:
                shown = [_print_refused if quiet else display, *map(stack.enter_context, loggers)]
                more: dict[str, Any] = {"resume": resume, "stop": stop, "observers": shown, "ranks": ranks}
                result = runs.run(opened or source, choices, out, settings=settings, **more)
        if result.stopped and not options.follow:
            raise KeyboardInterrupt
    _print(console, result)
    if ranks.leader:
        printing.show(result.to_dict())
    if result.stopped:
        command = again(resumed=resume)
        command = command if (out / RECORD).exists() else command.removesuffix(" --resume")
        say(console, f"Stopped; resume with: {command}")
    say(console, f"Everything is in {out}.")


def _print(console: Console, result: Result) -> None:
    several = len(result.strategies) > 1
    for row in result.strategies:
        learner = f"{row.name} learned" if several else "Learned"
        say(console, f"{learner} from {row.experiences} expert(s); they know {len(row.classes or ())} class(es).")
        if row.agreement is not None:
            console.print(agreement_table(row.agreement, console.width))
    say(console, *forecast_lines(result))
    if several and result.preferred is not None and not result.stopped:
        say(console, f"The student of {result.preferred.name} agrees best with the experts.")


def say(console: Console, *lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(printable(line), markup=False, soft_wrap=True)


def _pair(option: str, text: str, sign: str, form: str) -> tuple[str, str]:
    left, found, right = text.partition(sign)
    if not (left and found and right):
        raise SettingError(expected=f"{option} {form}", got=repr(text), remedy="correct it, or edit a plan file")
    return left, right


def _labels(option: str, text: str) -> tuple[str, str]:
    return _pair(option, text, ":", "EXPERT:LABEL,LABEL")


def _shape(text: str) -> tuple[int, int, int]:
    match [int(part) for part in text.split(",") if part.strip().isdecimal()]:
        case [channels, height, width] if min(channels, height, width) > 0:
            return channels, height, width
        case _:
            expected = "--image-shape CHANNELS,HEIGHT,WIDTH, such as 3,32,32"
            raise SettingError(expected=expected, got=repr(text), remedy="correct it")


def _print_refused(event: Event, /) -> None:
    if isinstance(event, ExpertRefused):
        sys.stderr.write(f"exml: not learned from: {printable(event.file)}: {event.reason}\n")
