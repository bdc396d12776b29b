"""The ``exml`` command: arguments in, words out; the work is done by :mod:`exml.experiment` and :mod:`exml.sweep`."""

from exml.cli._main import main
from exml.cli.lists import list_scenarios, list_strategies
from exml.cli.run import run
from exml.cli.sweep import sweep

__all__ = ["list_scenarios", "list_strategies", "main", "run", "sweep"]
