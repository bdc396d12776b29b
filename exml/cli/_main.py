"""The commands, and how errors become messages and exit codes."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cyclopts import App, CycloptsError, Parameter

from exml.core.errors import LONGEST, ExmlError, RankError, SettingError, printable, shortened
from exml.core.imports import import_all

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

COMMANDS = {
    "learn": ("exml.cli.learn:learn", "Learn one student from a folder of other people's classifiers."),
    "plan": ("exml.cli.plan:plan", "Show the experts of a folder, plan the student's labels, and forecast the time."),
    "run": ("exml.cli.run:run", "Learn from the experts of a scenario, and compare with baselines."),
    "predict": ("exml.cli.predict:predict", "Print the labels of images."),
    "evaluate": ("exml.cli.evaluate:evaluate", "Measure a student on labeled images, or without data."),
    "report": ("exml.cli.report:report", "Write one HTML page about runs, which opens offline."),
    "export": ("exml.cli.export:export", "Write a student as one ONNX or .pt2 file."),
    "sweep": ("exml.cli.sweep:sweep", "Run a grid of scenarios, strategies, values of their fields, and seeds."),
    "experts": ("exml.cli.experts:experts", "Train the experts of scenarios, and evaluate them."),
    "strategies": ("exml.cli.lists:list_strategies", "List the strategies that have a name."),
    "scenarios": ("exml.cli.lists:list_scenarios", "List the scenarios."),
}

IMPORT = "--import"
HELP = "Learn one model from a stream of other people's trained models, without their data."
EPILOGUE = (
    "Every command takes --import MODULE, also several times: a Python module, from the current folder too, or a .py "
    "file. It is imported first, which runs its code; the architectures, scenarios and components that it registers "
    "then have names."
)


def _version() -> None:
    from importlib.metadata import version

    sys.stdout.write(f"{version('exml')}\n")


def _completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script that completes commands and options, such as for: eval "$(exml completion bash)".

    Args:
        shell: Which shell it is for.
    """
    sys.stdout.write(app.generate_completion(shell=shell))


class _Formatter:
    """The default format of help, without the line breaks that docstrings have within a sentence."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        from cyclopts.help import DefaultFormatter, InlineText
        from rich.text import Text

        for entry in panel.entries:
            if isinstance(entry.description, InlineText) and isinstance(entry.description.primary_renderable, Text):
                text = entry.description.primary_renderable
                text.plain = " ".join(text.plain.split())
        DefaultFormatter()(console, options, panel)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: object) -> None:
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)


app = App(
    name="exml",
    help=HELP,
    help_epilogue=EPILOGUE,
    help_formatter=_Formatter(),
    version_flags=(),
    help_format="plaintext",  # importing Markdown takes a tenth of a second
    default_parameter=Parameter(negative=()),
)
for name, (place, summary) in COMMANDS.items():
    app.command(place, name=name, help=summary)
app.command(_completion, name="completion")
app.command(_version, name="--version", help="Display the version.")  # without Rich, which takes long to import


def run_app(app: App, arguments: Sequence[str] | None = None) -> int:
    """Run a command line of an app; see :func:`exml.cli.main`."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    command = None
    try:
        left, modules = _imports(sys.argv[1:] if arguments is None else arguments)
        import_all(modules, IMPORT)
        command, bound, _ = app.parse_args(left, print_error=False, exit_on_error=False)
        code = command(*bound.args, **bound.kwargs)
    except RankError as error:
        return 1 if error.reported else _fail(f"error: {error}", 1)
    except ExmlError as error:
        return _fail(f"error: {error}", 2)
    except (CycloptsError, OSError) as error:  # such as a full disk, or a path that the system does not allow
        return _fail(f"error: {shortened(printable(str(error)), LONGEST)}", 2)
    except KeyboardInterrupt as interrupt:
        return 130 if command is None else _fail(f"interrupted{interrupt}", 130)  # silent while it is imported
    return code or 0


def _imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without ``--import MODULE`` or ``--import=MODULE``, and these modules."""
    left, modules = list[str](), list[str]()
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if argument == "--":
            left += [argument, *given]
        elif name != IMPORT:
            left.append(argument)
        else:
            modules.append(value if equals else next(given, ""))
    if not all(modules):
        raise SettingError(expected="a module after --import", got="none", remedy="name a Python module or file")
    return left, modules


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"exml: {message}\n")
    return code
