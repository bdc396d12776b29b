"""The ``exml`` command: names and files become objects; the work is done in :mod:`exml.runs`.

Importing this package does not import torch. Each command is imported when it is called.
"""

from exml.cli._entry import main, run_app

__all__ = ["main", "run_app"]
