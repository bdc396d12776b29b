"""The ``exml`` command. It reads arguments and prints; the work is done by :mod:`exml.experiment`."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, Token
from rich import box
from rich.console import Console
from rich.table import Table

from exml import experiment, scenarios
from exml.engine import Execution, keep_freed_memory
from exml.errors import ExmlError, SettingError
from exml.recipes import RECIPES, recipe
from exml.report import ProgressDisplay, result_table
from exml.strategy import Strategy


def _whole(_: object, tokens: Sequence[Token]) -> int:
    """Cyclopts rounds 1.5; a seed that nobody asked for is not what was meant."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value!r}") from None


Whole = Annotated[int, Parameter(converter=_whole)]
Flag = Annotated[bool, Parameter(show_default=False)]
app = App(
    name="exml",
    help="Learn one model from a stream of other people's trained models, without their data.",
    version=version("exml"),
    default_parameter=Parameter(negative=()),
)


@app.command
def run(
    scenario: Annotated[str, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    out: Path,
    strategy: str = "exml",
    seed: Whole = 0,
    split: Literal["test", "validation"] = "test",
    device: str = "cpu",
    compile: Literal["never", "capture", "always", "auto"] = "never",
    precision: Literal["float32", "bfloat16"] = "float32",
    checkpoint_every: Whole = 1_000,
    resume: Flag = False,
    quiet: Flag = False,
) -> None:
    """Train a scenario's experts, learn one student from them without their data, and compare it with the baselines.

    Writes into the folder: result.json, accuracy.png, the experts, and for each strategy student.safetensors with its
    card, samples.png and the checkpoints. A run that was killed at any moment goes on with --resume.

    Args:
        scenario: One of those that 'exml scenarios' lists.
        out: Folder for everything that comes out; new or empty, unless the run is resumed.
        strategy: One of those that 'exml strategies' lists, a YAML or JSON file, or several of either, separated by
            commas; all learn from the same experts.
        seed: Of the scenario, the experts and the students.
        split: What the accuracies are measured on; with 'validation' no test image is looked at.
        device: Where to work, as torch names it: 'cpu', 'cuda', 'cuda:1'; 'auto' is an accelerator if there is one.
        compile: 'capture' makes each step of the hot loops one CUDA graph, 'always' compiles the networks as well;
            'auto' tries where enough work is ahead, and keeps what is fastest.
        precision: Of the networks; 'bfloat16' is for accelerators that have it.
        checkpoint_every: Steps of generation or distillation between two checkpoints.
        resume: Go on with the run in the folder.
        quiet: Print nothing but errors.
    """
    strategies = _strategies(strategy, scenario, seed)
    keep_freed_memory()
    try:
        with ProgressDisplay(Console(stderr=True, quiet=quiet)) as display:
            result = experiment.run(
                scenario,
                strategies,
                out,
                seed=seed,
                split=split,
                device=device,
                execution=Execution(compile, precision),
                checkpoint_every=checkpoint_every,
                resume=resume,
                observers=[display],
            )
    except KeyboardInterrupt:
        again = shlex.join(["exml", *sys.argv[1:]]) + ("" if resume else " --resume")
        raise KeyboardInterrupt(f"; go on with: {again}") from None
    console = Console(quiet=quiet, highlight=False)
    console.print(result_table(result, console.width))
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)


@app.command(name="strategies")
def list_strategies() -> None:
    """List the strategies that have a name."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("strategy", no_wrap=True)
    table.add_column("what it does")
    for name, make in RECIPES.items():
        table.add_row(name, (inspect.getdoc(make) or "").splitlines()[0])
    Console(highlight=False).print(table)


@app.command(name="scenarios")
def list_scenarios() -> None:
    """List the scenarios, as they are with seed 0."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("what it is")
    for name in scenarios.names():
        table.add_row(name, scenarios.describe(name))
    Console(highlight=False).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the name of the program; those of this process by default.

    Returns:
        int: The exit code: 0; 2 after a mistake in the input, with one message on stderr; 130 after Ctrl-C.
    """
    try:
        command, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
        command(*bound.args, **bound.kwargs)
    except (CycloptsError, ExmlError) as error:
        return _say(f"error: {error}", 2)
    except KeyboardInterrupt as interrupt:
        return _say(f"interrupted{interrupt}", 130)
    return 0


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"exml: {message}\n")
    return code


def _strategies(text: str, scenario: str, seed: int) -> dict[str, Strategy]:
    """The strategies that --strategy names; a file's name is that of its strategy."""
    chosen: dict[str, Strategy] = {}
    for part in text.split(","):
        path = Path(part)
        is_file = path.suffix in (".yaml", ".yml", ".json") or os.sep in part
        name = path.stem if is_file else part
        if name in chosen:
            raise SettingError(expected="each strategy once", got=f"{name!r} twice", remedy="rename one of the files")
        chosen[name] = Strategy.load(path) if is_file else recipe(part, scenario, seed).build()
    return chosen
