"""The commands together, and what becomes of errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from exml.cli.experts import experts
from exml.cli.lists import list_scenarios, list_strategies
from exml.cli.run import run
from exml.cli.sweep import sweep
from exml.core.errors import ExmlError, RankError

app = App(
    name="exml",
    help="Learn one model from a stream of other people's trained models, without their data.",
    version=version("exml"),
    default_parameter=Parameter(negative=()),
)
app.command(run)
app.command(sweep)
app.command(experts)
app.command(list_strategies, name="strategies")
app.command(list_scenarios, name="scenarios")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the name of the program; those of this process by default.

    Returns:
        int: The exit code: 0; 2 after a mistake in the input, with one message on stderr; 1 when another process of
            the run has failed, or a run of a sweep, or an expert of a zoo is damaged; 130 after Ctrl-C.
    """
    return run_app(app, arguments)


def run_app(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run a command line of some app as :func:`main` does."""
    try:
        command, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
        code = command(*bound.args, **bound.kwargs)
    except RankError as error:
        return 1 if error.reported else _say(f"error: {error}", 1)
    except (CycloptsError, ExmlError) as error:
        return _say(f"error: {error}", 2)
    except KeyboardInterrupt as interrupt:
        return _say(f"interrupted{interrupt}", 130)
    return code or 0


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"exml: {message}\n")
    return code
