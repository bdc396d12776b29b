"""Writes the page about the paper's tables and figures, and copies the figures next to it.

uv run python benchmarks/reproduction_page.py

Every number on ``docs/reproduction.md`` comes from a cell in ``benchmarks/results/reproduction/``, which
``benchmarks/reproduce.py`` measures, or from the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pages import wrap
from reproduction import (
    PAPER_LAYOUT,
    Cell,
    Layout,
    Reasons,
    Table,
    TableRow,
    conditions_text,
    read_cells,
    read_record,
    table_text,
    tables_of,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"
FIGURES = {
    "figure2.png": (
        "Figure 2: samples of joint and split MNIST",
        "Original images, and the buffers of the strategies that invert images, of the first seed. The paper finds "
        "digits in the joint scenario, and in the split one images far from realistic (Sec. 5.1).",
    ),
    "figure3.png": (
        "Figure 3: accuracy against the size of the buffer",
        "The buffer's size is as the axis says, whatever the budget; iterations go with the budget.",
    ),
}

INTRODUCTION = """# Reproduction

Tables 2 and 3 of the paper, and its Figures 2 and 3, measured again by one command:

```sh
uv run python benchmarks/reproduce.py table2 table3 figure2 figure3 --out runs/reproduction
```

A cell of a table shows ours in bold: the stream accuracy (Eq. 2) in percent, mean ± standard deviation of the sample
over n seeds. A seed decides the order of the classes, the experts, and the student. The paper's number is below it.
Three things keep the two from being the same experiment:

- **The streams are not the paper's.** Ours are trained by the recipe of its appendix A, or for fewer epochs where the
  conditions say so; how far the baselines are from the paper's says how much the streams differ. So the honest
  comparison is down a column: all its rows are about the same experts.
- **The budget.** At a budget b below 1, a distillation makes b times the iterations of appendix B, and an inversion √b
  times its iterations for √b times the images ({py:func}`exml.recipes.at_budget`). Our own recipe takes minutes where
  the paper's take hours, so it may have a budget of its own (`--own-budget`): look at what each cell took, below.
- **The text and the code.** The rows of Ex-Model Distillation follow the paper's text; those called *reference* follow
  its code, which differs.

Replay ED, which looks at the experts' own data, Gaussian noise and our own recipe have no place in the paper's tables.
Each cell shows its recipe at the commit below the table. Our own has changed since for MNIST-NC: see
[Results](results.md).
"""

RULES = """## How the tables are made

Each cell is a file in `benchmarks/results/reproduction/cells/`, with its accuracy matrix, the strategy, the SHA-256 of
the experts, seconds, hardware, versions and commit. A column shows the cells of one training of its experts: the one
with the most cells of strategies; of several, that with more epochs. Each of its rows shows the cells of the highest
budget. A cell that failed is shown where nothing else was measured. What is empty says why.

A folder may be filled by many calls, and by several machines, each with scenarios, strategies and budgets of its own:

```sh
alias reproduce="uv run python benchmarks/reproduce.py"
reproduce table2 --scenarios mnist-joint,mnist-nc --seeds 3 --out A           # kill it at any moment, then
reproduce table2 --scenarios mnist-joint,mnist-nc --seeds 3 --out A --resume  # resume, in the middle of a cell
reproduce table2 --scenarios cifar10-nc --budget 0.05 --expert-training epochs=4 --out A --resume
reproduce gather A B --out benchmarks/results/reproduction
```

The page is written by `uv run python benchmarks/reproduction_page.py`.
"""


def page(cells: Sequence[Cell], reasons: Reasons, figures: Sequence[str], layout: Layout = PAPER_LAYOUT) -> str:
    """The whole page, of all measured cells, the reasons for missing ones, and the names of the figures."""
    tables = tables_of(cells, reasons, layout)
    parts = [INTRODUCTION, _hardware(cells)]
    for table in tables:
        parts += [f"## {table.name.replace('table', 'Table ')}\n", table_text(table)]
        parts += [_wrap(note) for note in table.notes]
        parts += [_wrap(text) for text in _verdict(table)]
        parts += [f"### How {table.name.replace('table', 'Table ')} was measured\n", conditions_text(table)]
    if layout.note is not None:
        parts.append(_wrap(layout.note))
    for name, (title, words) in FIGURES.items():
        parts.append(f"## {title}\n")
        if name in figures:
            parts += [_wrap(words), f"```{{image}} _static/reproduction-{name}\n:alt: {title}\n:width: 100%\n```\n"]
        else:
            parts.append("Not measured yet.\n")
    return "\n".join([*parts, RULES])


def _hardware(cells: Sequence[Cell]) -> str:
    """Whether a GPU was used."""
    devices = {environment.device.split(":")[0] for cell in cells for environment in cell.environments}
    if not devices:
        return "Nothing was measured yet.\n"
    if "cuda" in devices:
        return _wrap("What was measured on which machine, the conditions below each table say.")
    return _wrap(
        "**Not measured on a GPU yet.** All of this comes from a CPU, which is why some budgets are small, experts of "
        "CIFAR-10 had few epochs, and cells are missing. `benchmarks/run_on_gpu.sh` measures the MNIST and CIFAR-10 "
        "columns at budget 1 with 5 seeds. Minutes are those of the clock while the two cores had other work to do, "
        "and some cells were stopped for a time: they are upper bounds."
    )


def _verdict(table: Table) -> list[str]:
    """Wins and losses per column: compared with the paper, and with our recipe on the same stream."""
    lines: list[str] = []
    for column in table.columns:
        rows = [(row, entry) for row in table.rows if (entry := table.entries[row.name, column.name]).mean is not None]
        gains = [(row, entry.mean - entry.paper[0]) for row, entry in rows if not row.is_baseline and entry.paper]
        parts = {
            "at or above the paper's figure": _points((row, gain) for row, gain in gains if gain >= 0),
            "below it": _points((row, gain) for row, gain in gains if gain < 0),
        }
        ours = next((entry.mean for row, entry in rows if row.name == "exml"), None)
        if ours is not None:
            better = _points((row, entry.mean - ours) for row, entry in rows if entry.mean > ours)
            parts["better than our recipe on the same stream"] = better or "nothing"
        words = [f"{what}: {names}" for what, names in parts.items() if names]
        if words:
            lines.append(f"**{column.title}**, in points: {'; '.join(words)}.")
    return lines


def _points(rows: Iterable[tuple[TableRow, float]]) -> str:
    return ", ".join(f"{row.title} ({points:+.1f})" for row, points in rows)


def _wrap(text: str) -> str:
    return "\n".join(wrap(text)) + "\n"


def main() -> None:
    """Write the page and copy the figures next to it."""
    figures = [name for name in FIGURES if (RESULTS / name).exists()]
    for name in figures:
        (ROOT / "docs" / "_static" / f"reproduction-{name}").write_bytes((RESULTS / name).read_bytes())
    text = page(read_cells(RESULTS), read_record(RESULTS).reasons, figures)
    PAGE.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
