"""exml plan: the experts of a folder, the labels of a student, and a forecast."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import attrs
from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import PRINTING, Flag, Printing, Whole
from exml.cli.learn import STUDENT, Folder, StudentOptions, say
from exml.core.errors import FolderError, SettingError, printable
from exml.core.files import write_text
from exml.core.serialization import to_plain
from exml.engine import keep_freed_memory
from exml.experts.loading import read_folder
from exml.runs.learn import named, screened
from exml.runs.run import schedule
from exml.runs.table import experts_table, plan_lines


@Parameter(name="*")
@attrs.frozen
class ForecastOptions:
    """What the forecast is for.

    Args:
        strategy: One of those that 'exml strategies' lists.
        seed: Of the student.
        device: As torch names it.
    """

    strategy: str = "exml"
    seed: Whole = 0
    device: str = "cpu"


FORECAST = ForecastOptions()


def plan(
    folder: Folder,
    /,
    *,
    out: Path | None = None,
    target: StudentOptions = STUDENT,
    options: ForecastOptions = FORECAST,
    trust: Flag = False,
    printing: Printing = PRINTING,
) -> int:
    """Show the experts of a folder, plan the labels of a student, and forecast time and memory. Nothing is learned.

    Prints a row per expert, experts that cannot be read, the labels of the student, near-duplicates, suspect experts,
    and the forecast. The exit code is 1 if an expert cannot be read.

    Args:
        folder: Folder of experts in any format.
        out: File for the label plan, to be edited and given to 'exml learn --plan'; it must not exist.
        trust: Also load formats that execute code when they are loaded: .pt2 and TorchScript.
    """
    if out is not None and os.path.lexists(out):
        raise SettingError(expected=f"no file {out} yet", got="one", remedy="choose another name, or remove the file")
    keep_freed_memory()
    console = printing.console
    cards, found, faults = read_folder(folder)
    console.print(experts_table(cards, found))
    for name, fault in faults.items():
        sys.stderr.write(f"exml: {printable(name)} cannot be read: {fault}\n")
    if not cards:
        raise FolderError([f"{name}: {fault}" for name, fault in faults.items()])
    settings = runs.RunSettings(options.seed, options.device)
    opened = target.source(folder, trust=trust).opened(cards, found, settings.seed)
    say(console, *plan_lines(opened))
    if out is not None:
        write_text(out, opened.labels.to_yaml())
        say(console, f"Edit {out}, then: exml learn {folder} --plan {out} --out OUT")
    with Console(stderr=True, quiet=printing.quiet).status("Comparing the experts and timing a few steps"):
        suspects = [found for found in screened(opened) if found.problems]
        strategy, expected = schedule(opened, named(options.strategy), settings)
        needed = opened.memory(strategy, settings.seed)
    printing.show(
        {
            "experts": {name: {"format": found[name].format, **to_plain(card)} for name, card in cards.items()},
            "unreadable": {name: str(fault) for name, fault in faults.items()},
            "labels": attrs.asdict(opened.labels),
            "student": attrs.asdict(opened.plan),
            "suspects": [to_plain(suspect) for suspect in suspects],
            "forecast": to_plain(expected),
            "memory": needed,
        }
    )
    say(console, *(f"Suspect: {found.expert}: {found.problems}" for found in suspects))
    say(console, f"Forecast for {options.strategy}: {expected}; about {needed / 2**20:,.0f} MiB without activations.")
    return 1 if faults else 0
