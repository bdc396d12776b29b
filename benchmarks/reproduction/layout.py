"""The layout of the tables: columns are scenarios, rows are baselines and strategies; the paper's own numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import attrs

from exml import recipes
from exml.learning.builder import CompleteBuilder

Figures: TypeAlias = Mapping[str, Mapping[str, tuple[float, float]]]
"""Mean and deviation by row (the paper's name) and scenario; without the entries that the paper leaves empty."""
Family: TypeAlias = Literal["paper", "reference"]
"""The source of the settings of Ex-Model Distillation: the paper's text or its code."""
BASELINES = "baselines"
"""Name of the cell with all baselines of a scenario and seed."""
OWN = "exml"
"""The row of our own recipe."""


@attrs.frozen
class TableColumn:
    """One scenario, and the dataset that it needs in ``EXML_DATA``."""

    name: str
    table: str
    title: str
    dataset: str


@attrs.frozen(kw_only=True)
class TableRow:
    """One baseline or strategy.

    Args:
        name: of the recipe; of a baseline, its name in a :class:`exml.runs.Result`.
        title: its heading.
        strategy: its name in ``--strategies``; ``"baselines"`` for every baseline.
        family: of its recipe, if the strategy has several.
        paper: the paper's name of the corresponding row; None if the paper has none.
    """

    name: str
    title: str
    strategy: str
    family: Family | None = None
    paper: str | None = None

    @property
    def is_baseline(self) -> bool:
        return self.strategy == BASELINES


@attrs.frozen
class Layout:
    """Columns and rows in their order, and how they are made.

    Args:
        columns: the scenarios.
        rows: the baselines and strategies.
        recipes: by name; each makes a builder from a scenario and a seed.
        figures: the paper's numbers, by its names of rows and our names of columns.
        note: on these numbers.
        samples: columns of Figure 2.
        imports: modules that register the scenarios; every process imports them first.
    """

    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    recipes: Mapping[str, Callable[[str, int], CompleteBuilder]]
    figures: Figures = attrs.field(factory=dict[str, Mapping[str, tuple[float, float]]])
    note: str | None = None
    samples: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.table for column in self.columns))

    @property
    def strategies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.strategy for row in self.rows))

    def column(self, name: str) -> TableColumn:
        return next(column for column in self.columns if column.name == name)

    def asked(self, strategies: tuple[str, ...], families: tuple[Family, ...]) -> tuple[TableRow, ...]:
        """The rows of some strategies, with the recipes of some families."""
        return tuple(row for row in self.rows if row.strategy in strategies and row.family in (None, *families))


PRINTED = """
                  |mnist-joint|mnist-nc  |cifar10-joint|cifar10-nc|cifar10-mt|core50-joint|core50-nc |core50-ni
Oracle            |93.71 0.28 |99.42 0.19|87.37 1.11   |96.58 0.86|96.58 0.86|85.73 0.29  |96.04 1.08|
Ensemble Avg.     |           |33.40 4.74|             |51.85 2.37|          |            |26.30 1.38|69.92 0.70
Min. Entropy      |           |39.41 5.27|             |52.03 2.67|          |            |42.41 0.96|61.36 1.86
Param. Avg.       |           |20.11 0.97|             |10.00 0.00|51.85 2.37|            |2.00 0.00 |2.00 0.00
Model Inversion ED|93.09 1.43 |43.23 3.00|64.55 3.25   |17.40 3.96|61.71 7.52|50.06 2.76  |33.1  1.93|44.38 4.93
Data Impression ED|92.12 0.88 |36.05 6.74|52.64 5.82   |24.70 6.85|61.15 3.92|52.91 2.09  |17.57 3.57|43.26 2.36
Aux. Data ED      |89.35 0.18 |35.48 6.35|76.94 2.68   |41.35 5.83|60.72 3.70|81.82 0.29  |34.87 1.16|44.51 2.91
"""

PAPER_NOTE = (
    "The paper prints 51.85 ± 2.37 twice in its Table 2: for Ensemble Avg. on CIFAR10-NC and for Param. Avg. on "
    "CIFAR10-MT. One of the two must have been misplaced; both are given here as printed."
)


def _read(printed: str) -> Figures:
    (_, *columns), *rows = ([cell.strip() for cell in line.split("|")] for line in printed.strip("\n").splitlines())
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, *cells in rows:
        pairs = {column: cell.split() for column, cell in zip(columns, cells, strict=True) if cell}
        found[name] = {column: (float(mean), float(deviation)) for column, (mean, deviation) in pairs.items()}
    return found


PAPER_FIGURES: Figures = _read(PRINTED)

ED: Mapping[str, str] = {
    "model-inversion": "Model Inversion ED",
    "data-impression": "Data Impression ED",
    "auxiliary": "Aux. Data ED",
    "replay": "Replay ED",
    "noise": "Gaussian noise ED",
}
"""Titles of strategies, by the last part of the names of their recipes."""


def _distillations(family: Family) -> tuple[TableRow, ...]:
    return tuple(
        TableRow(
            name=f"{family}-{name}",
            title=title if family == "paper" else f"{title} (reference)",
            strategy=name,
            family=family,
            paper=title if title in PAPER_FIGURES else None,
        )
        for name, title in ED.items()
    )


PAPER_LAYOUT = Layout(
    columns=tuple(
        TableColumn(
            f"{dataset.lower()}-{kind.lower()}", table, f"{dataset}{' ' if kind == 'Joint' else '-'}{kind}", dataset
        )
        for table, dataset, kinds in (
            ("table2", "MNIST", ("Joint", "NC")),
            ("table2", "CIFAR10", ("Joint", "NC", "MT")),
            ("table3", "CORe50", ("Joint", "NC", "NI")),
        )
        for kind in kinds
    ),
    rows=(
        *(
            TableRow(name=name, title=name, strategy=BASELINES, paper=name.partition(" (")[0])
            for name in ("Oracle", "Ensemble Avg. (logits)", "Ensemble Avg. (probs)", "Min. Entropy", "Param. Avg.")
        ),
        *_distillations("paper"),
        *_distillations("reference"),
        TableRow(name=OWN, title="exml (ours)", strategy=OWN),
    ),
    recipes={name: partial(recipes.for_scenario, name) for name in recipes.RECIPES},
    figures=PAPER_FIGURES,
    note=PAPER_NOTE,
    samples=("mnist-joint", "mnist-nc"),
)
"""Tables 2 and 3 of the paper, and rows for Replay ED, Gaussian noise and our own recipe."""
