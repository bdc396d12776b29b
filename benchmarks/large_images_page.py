"""The measured part of the page about datasets: a large network on large photographs.

    uv run python benchmarks/large_images_page.py

Reads what ``benchmarks/large_images.py`` has written to ``benchmarks/results/`` and writes the part of
``docs/datasets.md`` between its two marks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page_part import with_part, write_page

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "large_images_cpu.json"
PAGE = ROOT / "docs" / "datasets.md"
STREAMS = ("new instances", "new classes")


def measured(found: Mapping[str, Any]) -> str:
    """Words and two tables of a result."""
    place, frames = found["environment"], found["n"]["frames"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    origin = (
        f"Made by `uv run python benchmarks/large_images.py` at commit {found['commit']} on {place['hardware']}, "
        f"{place['device']}; {place['threads']} thread(s); {versions}. n = {found['n']['runs']}: {frames['train']} "
        f"frames to train the experts, {frames['test']} to test. In all {found['cpu_seconds']:.0f} seconds of the "
        f"processor, and {_gibibytes(found['peak_resident_mib'])} of memory at most."
    )
    seconds: dict[str, dict[str, str]] = {}
    for stage in found["stages"]:
        if stage["stream"] in STREAMS:
            cell = f"{stage['cpu_seconds']:.1f} s, {_gibibytes(stage['peak_resident_mib'])}"
            seconds.setdefault(stage["stage"], {})[stage["stream"]] = cell
    accuracies: dict[str, dict[str, str]] = {}
    for stream in STREAMS:
        for name, value in found["accuracy"][stream].items():
            values = value if isinstance(value, list) else [value]
            accuracies.setdefault(name, {})[stream] = ", ".join(f"{100 * each:.0f}" for each in values)
    return "\n".join([*_wrap(origin), "", *_table("stage", seconds), "", *_table("accuracy, %", accuracies)]) + "\n"


def page(text: str, found: Mapping[str, Any]) -> str:
    """A page with its measured part made anew."""
    return with_part(text, "large_images_page.py", f"\n{measured(found)}\n")


def _gibibytes(mebibytes: float) -> str:
    return f"{mebibytes / 1024:.1f} GiB"


def _table(what: str, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = [f"| {what} | {' | '.join(STREAMS)} |", f"| --- |{' ---: |' * len(STREAMS)}"]
    return lines + [
        f"| {name} | {' | '.join(row.get(stream, '') for stream in STREAMS)} |" for name, row in rows.items()
    ]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    write_page(PAGE, RESULT, page)
