"""exml strategies and exml scenarios: the names that other commands take."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from exml import scenarios
from exml.recipes import RECIPES


def list_strategies() -> None:
    """List the strategies that have a name."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("what it does")
    for name, summary in RECIPES.items():
        table.add_row(name, summary)
    Console(highlight=False).print(table)


def list_scenarios() -> None:
    """List the scenarios, as they are with seed 0."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("what it is")
    for name in scenarios.names():
        table.add_row(name, scenarios.describe(name))
    Console(highlight=False).print(table)
