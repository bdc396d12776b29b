"""The paper's tables and figures made again: every cell measured, resumable, beside the paper's own."""

from reproduction.cell import Cell, read_cell, read_cells
from reproduction.figure2 import figure2
from reproduction.figure3 import figure3
from reproduction.layout import PAPER_LAYOUT, Layout, TableColumn, TableRow
from reproduction.plan import PlannedCell, ReproductionPlan, plan
from reproduction.record import Record, read_record
from reproduction.reproduction import Reproduction
from reproduction.run import Outcome, gather, run, write_tables
from reproduction.table import Column, Entry, Table, tables_of
from reproduction.text import as_json, conditions_text, markdown, table_text

__all__ = [
    "PAPER_LAYOUT",
    "Cell",
    "Column",
    "Entry",
    "Layout",
    "Outcome",
    "PlannedCell",
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
