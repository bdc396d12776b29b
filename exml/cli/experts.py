"""exml experts: those of scenarios, trained and looked at."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import Flag, Whole
from exml.engine import keep_freed_memory

experts = App(name="experts", help="Train the experts of scenarios, and see what they can do.")


@experts.command
def train(
    *scenarios: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path,
    seeds: Whole = 1,
    workers: Whole | None = None,
    device: str = "cpu",
    quiet: Flag = False,
) -> None:
    """Train the experts of scenarios, each with several seeds, and save them with their cards.

    Writes OUT/SCENARIO-SEED/expert-N.json and .safetensors. What is there is not trained again, and a training that was
    killed at any moment goes on with the same command. An expert that fails does not end the others.

    Args:
        scenarios: One or more of those that 'exml scenarios' lists; settings of the training may follow a colon, as in
            cifar10-joint:epochs=4,schedule=cosine.
        out: Folder of the zoo.
        seeds: How many: 0, 1, ... one less than that.
        workers: Experts at a time, each on one thread; by default as many as there are cores, on a GPU one.
        device: Where to train, as torch names it; 'auto' is an accelerator if there is one.
        quiet: Print nothing but errors.
    """
    keep_freed_memory()
    console = Console(stderr=True, quiet=quiet)
    try:
        with runs.ZooDisplay(console) as display:
            folders = runs.train_zoo(
                scenarios, out, seeds=range(seeds), workers=workers, device=device, observers=[display]
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; go on with: {shlex.join(['exml', *sys.argv[1:]])}") from None
    said = f"{len(folders)} stream(s) of experts in {out}."
    Console(quiet=quiet, highlight=False).print(said, markup=False, soft_wrap=True)


@experts.command
def evaluate(
    zoo: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    split: Literal["test", "validation"] = "test",
    device: str = "cpu",
    quiet: Flag = False,
) -> int:
    """Ask each expert of a zoo about its own classes, and all of a stream together about all, as the baselines do.

    The SHA-256 of all weights is checked. Writes ZOO/evaluation.json. If a file is damaged or absent it is named, the
    others are evaluated all the same, and the exit code is 1.

    Args:
        zoo: Folder that 'exml experts train' made.
        split: Which images are asked about; with 'validation' no test image is looked at.
        device: Where, as torch names it.
        quiet: Print nothing but faults.
    """
    keep_freed_memory()
    with Console(stderr=True, quiet=quiet).status("Asking the experts") as status:
        evaluation = runs.evaluate_zoo(
            zoo,
            split=split,
            device=device,
            progress=lambda done, total: status.update(f"Asked the experts of {done} of {total} streams"),
        )
    Console(quiet=quiet, highlight=False).print(runs.zoo_table(evaluation))
    for file, fault in evaluation.faults.items():
        sys.stderr.write(f"exml: {zoo / file}: {fault}\n")
    return 1 if evaluation.faults else 0
