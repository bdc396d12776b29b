"""What the pages of measurements share: how a page is made, and how tables, numbers and conditions are written.

``benchmarks/make_pages.py`` writes the pages. Every number on them comes from a file in ``benchmarks/results/``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from exml.core.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "% measured: written by benchmarks/make_pages.py\n", "% end of measured\n"
Found: TypeAlias = Mapping[str, Any]


@attrs.frozen
class Page:
    """A page of the documentation that is made of measurements, or the part of one between two marks.

    Args:
        name: of the page's file in ``docs/``.
        results: names of the files with measurements in ``benchmarks/results/``.
        make: the text, from the measurements by file name; those that are missing are not there.
        part: whether the rest of the page is written by hand.
    """

    name: str
    results: Sequence[str]
    make: Callable[[Mapping[str, Found]], str]
    part: bool = False

    @property
    def path(self) -> Path:
        """Its file."""
        return ROOT / "docs" / self.name

    def read(self) -> dict[str, Found]:
        """The measurements that are there."""
        paths = [RESULTS / name for name in self.results]
        return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}

    def text(self, found: Mapping[str, Found]) -> str:
        """The whole page."""
        if not self.part:
            return self.make(found)
        before, rest = self.path.read_text(encoding="utf-8").split(BEGIN)
        return before + BEGIN + self.make(found) + END + rest.split(END, 1)[1]

    def record(self, name: str, measured: Found) -> None:
        """Keep a measurement, and write the page with it."""
        write_text(RESULTS / name, json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
        self.write()

    def write(self) -> None:
        """Write the page from the measurements that are there."""
        write_text(self.path, self.text(self.read()))


def commit(*paths: str) -> str:
    """The last commit that changed the package or one of the paths."""
    command = ["git", "log", "-1", "--format=%h", "--", "exml", *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def made_by(command: str, found: Found) -> str:
    """The conditions of a measurement: command, commit, hardware, threads and versions."""
    machine = dict(found.get("machine", {}))
    places = found.get("environments") or [found.get("environment") or machine or found]
    if machine:
        accelerator = machine.pop("accelerator")
        hardware = [machine.pop("cpu") + ("" if accelerator == "none" else f", {accelerator}")]
    else:
        hardware = [name for place in places for name in _listed(place["hardware"])]
    threads = _listed(machine.pop("threads") if machine else places[0]["threads"])
    said = machine.pop("commit", None) or places[0].get("commit") or found.get("commit") or found.get("commits")
    commits = ", ".join(_listed(said or "not noted"))
    minutes = found.get("processor_minutes")
    versions = machine or places[0].get("versions") or found.get("versions") or {"torch": places[0]["torch"]}
    return (
        f"Made by `{command}` at commit {commits}{' (+: with uncommitted changes)' if '+' in commits else ''} "
        f"on {'; '.join(dict.fromkeys(hardware))}; {' or '.join(map(str, threads))} thread(s)"
        f"{', networks in bfloat16' if 'bfloat16' in found.get('precision', ()) else ''}; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}"
        f"{f'; {minutes:g} minutes of processor time' if minutes else ''}."
        f"{'' if found.get('complete', True) else ' **Not complete.**'}"
    )


def missing(command: str, where: str = "") -> str:
    """What a page says where there is no measurement."""
    return f"Not measured{where} yet. To measure it, run `{command}`."


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table. Columns whose heading ends with a bar are aligned to the left, the others, numbers, to the right."""
    names = [name.removesuffix("|") for name in head]
    bars = ["---" if name.endswith("|") else "---:" for name in head]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (names, bars, *rows)]


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ends(spread: Sequence[float] | None) -> str:
    """The least and the greatest."""
    return f"{number(spread[0])} – {number(spread[1])}" if spread else "–"


def mean(values: Sequence[float], sign: str = "") -> str:
    """Mean ± standard deviation of the sample, which one value does not have."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{deviation}"


def sentence(words: str, entries: Sequence[str], none: str) -> str:
    """A list in words, or a text for an empty one."""
    return f"{words}: {'; '.join(entries)}." if entries else none


def wrap(text: str) -> list[str]:
    """Lines of a paragraph."""
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
