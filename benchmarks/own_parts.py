"""The prior, the augmentation and the generator of *Build your own*, timed next to the built-in ones.

    uv run python benchmarks/own_parts.py                  # on a CPU
    uv run python benchmarks/own_parts.py --device cuda

The parts are the files that the pages show. Writes ``benchmarks/results/own_parts_cpu.json`` (or ``cuda``), the table
of the page, and its picture.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
from page_parts import OWN_PARTS
from pages import ROOT, commit

from exml.runs.environment import environment
from exml.runs.figures import new_figure
from exml.testing import benchmark

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prior": ("SoftRange", {"weight": 0.1}),
    "augmentation": ("Erase", {"size": 8}),
    "generator": ("Stripes", {"width": 2}),
}


def part_of(page: str) -> Any:
    """The part that a page shows."""
    text = (ROOT / "docs" / "build-your-own" / f"{page}.md").read_text(encoding="utf-8")
    match = re.search(r"```\{code-block\} python\n:caption: (\w+)\.py\n\n(.*?)```", text, re.DOTALL)
    assert match is not None, f"docs/build-your-own/{page}.md shows no file"
    name, settings = PARTS[page]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{match[1]}.py").write_text(match[2], encoding="utf-8")
        sys.path.insert(0, folder)
        try:
            return getattr(importlib.import_module(match[1]), name)(**settings)
        finally:
            sys.path.remove(folder)


def picture(found: dict[str, Any], path: Path) -> None:
    """The ratios to the bare step as bars, the part of the page in another color."""
    figure = new_figure(10, 2.6)
    for panel, (family, made) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        rows = made["rows"]
        names = [row["part"].split("(")[0] for row in rows]
        colors = ["#888888", "#d1495b", *["#2b6a99"] * (len(rows) - 2)]
        panel.barh(range(len(rows)), [row["ratio"] for row in rows], color=colors)
        panel.set_yticks(range(len(rows)), names)
        panel.invert_yaxis()
        panel.set_xlabel("time / bare step")
        panel.set_title(family)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    found = {page: attrs.asdict(benchmark(part_of(page), device=device, rounds=arguments.rounds)) for page in PARTS}
    place = {**attrs.asdict(environment(device)), "commit": commit("benchmarks/own_parts.py")}
    picture(found, ROOT / "docs" / "_static" / f"own-parts-{device.type}.png")
    OWN_PARTS.record(f"own_parts_{device.type}.json", {"environment": place, "families": found})


if __name__ == "__main__":
    main()
