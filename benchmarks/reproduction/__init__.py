"""The paper's tables and figures: every cell measured, resumable, next to the paper's own numbers.

Uses the sweeps of :mod:`exml.runs.sweep`; ``benchmarks/reproduce.py`` is its command.
"""

from reproduction.cell import Cell, read_cell, read_cells
from reproduction.layout import PAPER_LAYOUT, Layout, TableColumn, TableRow
from reproduction.pictures import figure2, figure3
from reproduction.plan import PlannedCell, ReproductionPlan, plan
from reproduction.record import Record, read_record
from reproduction.reproduction import Reproduction
from reproduction.run import Outcome, gather, run, write_tables
from reproduction.table import Column, Entry, Reasons, Table, tables_of
from reproduction.text import as_json, conditions_text, markdown, table_text

__all__ = [
    "PAPER_LAYOUT",
    "Cell",
    "Column",
    "Entry",
    "Layout",
    "Outcome",
    "PlannedCell",
    "Reasons",
    "Record",
    "Reproduction",
    "ReproductionPlan",
    "Table",
    "TableColumn",
    "TableRow",
    "as_json",
    "conditions_text",
    "figure2",
    "figure3",
    "gather",
    "markdown",
    "plan",
    "read_cell",
    "read_cells",
    "read_record",
    "run",
    "table_text",
    "tables_of",
    "write_tables",
]
