"""exml experts: train the experts of scenarios and evaluate them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

from exml import runs
from exml.cli.arguments import PRINTING, Flag, Printing, Whole, again
from exml.core.serialization import to_plain
from exml.engine import keep_freed_memory
from exml.scenarios import write_example

experts = App(name="experts", help="Train the experts of scenarios and evaluate them.")


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

    Writes OUT/SCENARIO-SEED/expert-N.json and .safetensors. The same command resumes a training that was killed, and
    does not repeat finished experts. An expert that fails does not stop the others.

    Args:
        scenarios: One or more of those that 'exml scenarios' lists, optionally with settings of the training after a
            colon, as in cifar10-joint:epochs=4,schedule=cosine.
        out: Folder of the zoo.
        seeds: Number of seeds: 0, 1, ...
        workers: Experts at a time, each on one thread; by default the number of cores, or 1 on a GPU.
        device: Where to train, as torch names it; 'auto' is an accelerator if there is one.
        quiet: Print only errors.
    """
    keep_freed_memory()
    try:
        with runs.ProgressDisplay(Console(stderr=True, quiet=quiet)) as display:
            train_all = partial(runs.train_zoo, workers=workers, device=device, observers=[display])
            folders = train_all(scenarios, out, seeds=range(seeds))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; resume with: {again(resumed=True)}") from None
    line = f"{len(folders)} stream(s) of experts in {out}."
    Console(quiet=quiet, highlight=False).print(line, markup=False, soft_wrap=True)


@experts.command
def evaluate(
    zoo: Annotated[Path, Parameter(allow_leading_hyphen=False)],
    /,
    *,
    split: Literal["test", "validation"] = "test",
    device: str = "cpu",
    printing: Printing = PRINTING,
) -> int:
    """Evaluate each expert of a zoo on its own classes, and the baselines of each stream on all classes.

    Checks the SHA-256 of all weights and writes ZOO/evaluation.json. Damaged and missing files are named and make the
    exit code 1; the others are evaluated.

    Args:
        zoo: Folder that 'exml experts train' made.
        split: The images to evaluate on; 'validation' does not touch the test images.
        device: Where to run, as torch names it.
    """
    keep_freed_memory()
    with Console(stderr=True, quiet=printing.quiet).status("Evaluating the experts") as status:

        def show(done: int, total: int) -> None:
            status.update(f"Evaluated {done} of {total} streams")

        evaluation = runs.evaluate_zoo(zoo, split=split, device=device, progress=show)
    printing.show(to_plain(evaluation), runs.zoo_table(evaluation))
    for file, fault in evaluation.faults.items():
        sys.stderr.write(f"exml: {zoo / file}: {fault}\n")
    return 1 if evaluation.faults else 0


@experts.command
def example(folder: Annotated[Path, Parameter(allow_leading_hyphen=False)], /, *, quiet: Flag = False) -> None:
    """Train three unlike classifiers of handwritten digits, to try 'exml learn' with.

    Writes FOLDER/experts: a folder of Hugging Face (zero to four), a PyTorch state dict (three to seven) and an ONNX
    file (six to nine), with cards for what the last two lack; and FOLDER/images, 50 test images per digit. Needs
    exml[hf,onnx], but no download.

    Args:
        folder: Folder for both; created if it does not exist.
        quiet: Print only errors.
    """
    places = write_example(folder)
    line = "Wrote three classifiers to {} and test images to {}.".format(*places)
    Console(quiet=quiet, highlight=False).print(line, markup=False, soft_wrap=True)
