"""The entry points, which import the commands when they are called, so that Ctrl-C during the import is silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import cyclopts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the name of the program; by default those of this process.

    Returns:
        int: The exit code. 0: success. 1: another process of the run failed, a run of a sweep failed, or an expert of a
            zoo is damaged. 2: a mistake in the input, with one message on stderr. 130: interrupted by Ctrl-C, which
            prints nothing while a command is being imported.
    """
    try:
        from exml.cli._main import app
    except KeyboardInterrupt:
        return 130
    return run_app(app, arguments)


def run_app(app: cyclopts.App, arguments: Sequence[str] | None = None) -> int:
    """Run a command line of an app; see :func:`main`."""
    from exml.cli import _main

    return _main.run_app(app, arguments)
