"""The measured part of the page about experts.

    uv run python benchmarks/expert_training_page.py

Reads what ``benchmarks/expert_training.py`` has written to ``benchmarks/results/`` and writes the part of
``docs/experts.md`` between its two marks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from page_part import with_part, write_page

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "expert_training_cpu.json"
PAGE = ROOT / "docs" / "experts.md"


def measured(found: Mapping[str, Any]) -> str:
    """Words and a table of a result."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    count = next(iter(found["rows"].values()))["n"]
    origin = (
        f"Images a second of the processor's time, medians of {count} epochs each, spread from the least to the "
        f"greatest; the speedup is that of pairs that took turns. Made by "
        f"`uv run python benchmarks/expert_training.py` at commit {found['commit']} on {found['hardware']}; "
        f"{found['threads']} thread(s); {versions}."
    )
    lines = ["| | `ExpertTraining` | `DataLoader` and SGD | speedup |", "| --- | ---: | ---: | ---: |"]
    for row in found["rows"].values():
        cells = [f"{row[way]['median']:,} ({_spread(row[way]['spread'])})" for way in ("ours", "usual", "speedup")]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *textwrap.wrap(origin, 118, break_long_words=False, break_on_hyphens=False)]) + "\n"


def page(text: str, found: Mapping[str, Any]) -> str:
    """A page with its measured part made anew."""
    return with_part(text, "expert_training_page.py", measured(found))


def _spread(ends: list[float]) -> str:
    return f"{ends[0]:,} – {ends[1]:,}"


if __name__ == "__main__":
    write_page(PAGE, RESULT, page)
