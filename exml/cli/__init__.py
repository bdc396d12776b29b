"""The ``exml`` command: arguments in, words out; the work is done by :mod:`exml.runs` and :mod:`exml.runs.sweep`."""

from exml.cli._main import main, run_app
from exml.cli.lists import list_scenarios, list_strategies
from exml.cli.run import run
from exml.cli.sweep import sweep

__all__ = ["list_scenarios", "list_strategies", "main", "run", "run_app", "sweep"]
