"""exml report: one HTML page about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import Flag


def report(
    *folders: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    out: Path = Path("report.html"),
    quiet: Flag = False,
) -> None:
    """Write one self-contained HTML page about finished or stopped runs, next to each other if there are several.

    It shows verdict, settings, label plan, tables, pictures, times, environment, and the command that repeats the run.
    The page opens offline. 'exml evaluate' measures a student; this command measures nothing.

    Args:
        folders: Folders that 'exml run' or 'exml learn' wrote.
        out: The page; replaced if it exists.
        quiet: Print only errors.
    """
    written = runs.write_report(folders, out)
    Console(quiet=quiet, highlight=False).print(f"Wrote {written}.", markup=False, soft_wrap=True)
