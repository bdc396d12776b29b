"""exml strategies and exml scenarios: the names that other commands take."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from exml import scenarios
from exml.cli.arguments import PRINTING, Printing
from exml.recipes import RECIPES


def list_strategies(*, printing: Printing = PRINTING) -> None:
    """List the strategies that have a name."""
    _print(printing, "strategy", "what it does", RECIPES)


def list_scenarios(*, printing: Printing = PRINTING) -> None:
    """List the scenarios for seed 0."""
    _print(printing, "scenario", "what it is", {name: scenarios.describe(name) for name in scenarios.names()})


def _print(printing: Printing, kind: str, summary: str, rows: Mapping[str, str]) -> None:
    table = Table(kind, summary, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.columns[0].no_wrap = True
    for row in rows.items():
        table.add_row(*row)
    printing.show(dict(rows), table)
