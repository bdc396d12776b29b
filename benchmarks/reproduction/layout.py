"""The layout of the tables: columns are scenarios, rows are baselines and strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

import attrs

from exml import recipes
from exml.learning.builder import CompleteBuilder
from reproduction._paper import PAPER_FIGURES, PAPER_NOTE, Figures

Family: TypeAlias = Literal["paper", "reference"]
"""The source of the settings of Ex-Model Distillation: the paper's text or its code."""
BASELINES = "baselines"
"""Name of the cell with all baselines of a scenario and seed."""
OWN = "exml"
"""The row of our own recipe."""


@attrs.frozen
class TableColumn:
    """One scenario.

    Args:
        name: of the scenario.
        table: name of its table.
        title: its heading.
        dataset: that it needs in ``EXML_DATA``.
    """

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
        """Whether it is a baseline."""
        return self.strategy == BASELINES


@attrs.frozen
class Layout:
    """Columns and rows, and how they are made.

    Args:
        columns: in their order.
        rows: in their order.
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
        """The names of the tables."""
        return tuple(dict.fromkeys(column.table for column in self.columns))

    @property
    def strategies(self) -> tuple[str, ...]:
        """The choices for ``--strategies``."""
        return tuple(dict.fromkeys(row.strategy for row in self.rows))

    def column(self, name: str) -> TableColumn:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    def asked(self, strategies: tuple[str, ...], families: tuple[Family, ...]) -> tuple[TableRow, ...]:
        """The rows of some strategies, with the recipes of some families."""
        return tuple(row for row in self.rows if row.strategy in strategies and row.family in (None, *families))


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
    columns=(
        TableColumn("mnist-joint", "table2", "MNIST Joint", "MNIST"),
        TableColumn("mnist-nc", "table2", "MNIST-NC", "MNIST"),
        TableColumn("cifar10-joint", "table2", "CIFAR10 Joint", "CIFAR10"),
        TableColumn("cifar10-nc", "table2", "CIFAR10-NC", "CIFAR10"),
        TableColumn("cifar10-mt", "table2", "CIFAR10-MT", "CIFAR10"),
        TableColumn("core50-joint", "table3", "CORe50 Joint", "CORe50"),
        TableColumn("core50-nc", "table3", "CORe50-NC", "CORe50"),
        TableColumn("core50-ni", "table3", "CORe50-NI", "CORe50"),
    ),
    rows=(
        TableRow(name="Oracle", title="Oracle", strategy=BASELINES, paper="Oracle"),
        *(
            TableRow(name=f"Ensemble Avg. ({of})", title=f"Ensemble Avg. ({of})", strategy=BASELINES, paper=paper)
            for of, paper in (("logits", "Ensemble Avg."), ("probs", "Ensemble Avg."))
        ),
        TableRow(name="Min. Entropy", title="Min. Entropy", strategy=BASELINES, paper="Min. Entropy"),
        TableRow(name="Param. Avg.", title="Param. Avg.", strategy=BASELINES, paper="Param. Avg."),
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
