"""The paper's tables and figures: every cell measured, resumable, next to the paper's own numbers.

Uses the sweeps of :mod:`exml.runs.sweep`; ``benchmarks/reproduce.py`` is its command.
"""

from reproduction.cells import Cell, read_cells, read_record
from reproduction.layout import PAPER_LAYOUT, Layout, TableColumn, TableRow
from reproduction.pictures import figure3
from reproduction.plan import Reproduction, ReproductionPlan, plan
from reproduction.run import Outcome, gather, run
from reproduction.tables import Entry, Reasons, Table, conditions_text, spread, table_text, tables_of

__all__ = [
    "PAPER_LAYOUT",
    "Cell",
    "Entry",
    "Layout",
    "Outcome",
    "Reasons",
    "Reproduction",
    "ReproductionPlan",
    "Table",
    "TableColumn",
    "TableRow",
    "conditions_text",
    "figure3",
    "gather",
    "plan",
    "read_cells",
    "read_record",
    "run",
    "spread",
    "table_text",
    "tables_of",
]
