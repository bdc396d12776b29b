"""The measured part of the page about long streams.

    uv run python benchmarks/streams_page.py

Reads what ``benchmarks/long_stream.py`` has written to ``benchmarks/results/`` and writes the part of
``docs/streams.md`` between its two marks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page_part import with_part, write_page

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "long_stream_cpu.json"
PAGE = ROOT / "docs" / "streams.md"


def measured(found: Mapping[str, Any]) -> str:
    """Words and tables of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    origin = (
        f"Made by `uv run python benchmarks/long_stream.py` at commit {found['commit']} on {found['hardware']}; "
        f"{found['threads']} thread(s); {versions}. One run of {found['experts']:,} experts for each row."
    )
    places = list(next(iter(found["rows"].values()))["peak_mib"])
    lines = [*textwrap.wrap(origin, 118, break_long_words=False, break_on_hyphens=False), ""]
    lines += [f"| buffer | {' | '.join(f'MiB after {int(place):,}' for place in places)} | last / first |"]
    lines += [f"| --- | {' | '.join('---:' for _ in places)} | ---: |"]
    for name, row in found["rows"].items():
        lines += [f"| {name}: {row['what']} | {' | '.join(map(str, row['peak_mib'].values()))} | {row['peak_ratio']} |"]
    lines += ["", "| buffer | | s an expert, median (quartiles) | n | processor s an expert |"]
    lines += ["| --- | --- | ---: | ---: | ---: |"]
    for name, row in found["rows"].items():
        for when, part in row["seconds"].items():
            low, high = part["spread_s"]
            wall = f"{part['median_s']} ({low} – {high})"
            lines += [f"| {name} | {when} | {wall} | {part['n']} | {part['processor_s']} |"]
    told = [_told(name, row) for name, row in found["rows"].items()]
    told += [
        "The machine did other work meanwhile; the processor's seconds suffer less from that than those of the wall."
    ]
    lines += ["", *textwrap.wrap(" ".join(told), 118, break_long_words=False)]
    return "\n".join(lines) + "\n"


def page(text: str, found: Mapping[str, Any]) -> str:
    """A page with its measured part made anew."""
    return with_part(text, "streams_page.py", measured(found))


def _told(name: str, row: Mapping[str, Any]) -> str:
    growth = f"the peak after the last expert was {100 * (row['peak_ratio'] - 1):.1f} % above that after the tenth"
    wall, processor = row["seconds_ratio"], row["processor_ratio"]
    times = f"{wall} times the seconds of the early ones, and {processor} times the processor's"
    text = f"With the {name} buffer {growth}; the late experts took {times}."
    if "kills" in row:
        verdict = "the same bytes" if row["same_student"] else "**other bytes**"
        text += f" Killed {row['kills']} times with `kill -9` and resumed, its student had {verdict}."
    return text


if __name__ == "__main__":
    write_page(PAGE, RESULT, page)
