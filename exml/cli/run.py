"""exml run: a scenario and whoever learns from its experts, or a folder of other people's experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from exml import runs
from exml.cli._arguments import Flag, Whole, again, strategies_of
from exml.cli._stream import StreamArguments
from exml.core.execution import Execution
from exml.distributed import TIMEOUT, join
from exml.engine import keep_freed_memory
from exml.runs import ProgressDisplay, result_table


def run(
    scenario: Annotated[str | None, Parameter(allow_leading_hyphen=False)] = None,
    /,
    *,
    out: Path,
    stream: Path | None = None,
    follow: Flag = False,
    student: str | None = None,
    classes: Whole | None = None,
    strategy: str = "exml",
    seed: Whole = 0,
    split: Literal["test", "validation"] = "test",
    device: str = "cpu",
    compile: Literal["never", "capture", "always", "auto"] = "never",
    precision: Literal["float32", "bfloat16"] = "float32",
    checkpoint_every: Whole = 1_000,
    resume: Flag = False,
    quiet: Flag = False,
    rank_timeout: float = TIMEOUT,
) -> None:
    """Train a scenario's experts, learn one student from them without their data, and compare it with the baselines.

    Writes into the folder: result.json, accuracy.png, the experts, and for each strategy student.safetensors with its
    card, samples.png and the checkpoints. A run that was killed at any moment goes on with --resume.
    With --stream, one student learns from a folder of other people's experts (NAME.json and NAME.safetensors each).
    There is no test data then; stream.jsonl says what was learned in which order.
    On several processors or machines: torchrun --nproc-per-node N -m exml run ...

    Args:
        scenario: One of those that 'exml scenarios' lists.
        out: Folder for everything that comes out; new or empty, unless the run is resumed.
        stream: Folder of other people's experts, instead of a scenario; one strategy.
        follow: Go on learning from experts as they arrive in the folder of --stream, until Ctrl-C or SIGTERM.
        student: With --stream: NAME, NAME:setting=value,... or a YAML file; the first expert's architecture by default.
        classes: With --stream: outputs of the student, where later experts bring more classes.
        strategy: One of those that 'exml strategies' lists, a YAML or JSON file, or several of either, separated by
            commas; all learn from the same experts.
        seed: Of the scenario, the experts and the students.
        split: What the accuracies are measured on; with 'validation' no test image is looked at.
        device: Where to work, as torch names it: 'cpu', 'cuda', 'cuda:1'; 'auto' is an accelerator if there is one.
        compile: 'capture' makes each step of the hot loops one CUDA graph, 'always' compiles the networks as well;
            'auto' tries where enough work is ahead, and keeps what is fastest.
        precision: Of the networks; 'bfloat16' is for devices that have it: most GPUs, CPUs with AVX-512 BF16 or AMX.
        checkpoint_every: Steps of generation or distillation between two checkpoints.
        resume: Go on with the run in the folder.
        quiet: Print nothing but errors.
        rank_timeout: Under torchrun, seconds after which a process that does not answer ends the run.
    """
    execution = Execution(compile, precision)
    if scenario is None or stream is not None or follow or student is not None or classes is not None:
        asked = StreamArguments(stream, follow, student, classes, strategy, None if split == "test" else split)
        asked.run(
            scenario,
            out,
            seed,
            device,
            execution,
            checkpoint_every,
            resume=resume,
            quiet=quiet,
            rank_timeout=rank_timeout,
        )
        return
    strategies = strategies_of(strategy, scenario, seed)
    keep_freed_memory()
    try:
        with (
            join(timeout=rank_timeout) as ranks,
            ProgressDisplay(Console(stderr=True, quiet=quiet or not ranks.leader)) as display,
        ):
            result = runs.run(
                scenario,
                strategies,
                out,
                seed=seed,
                split=split,
                device=device,
                execution=execution,
                checkpoint_every=checkpoint_every,
                resume=resume,
                observers=[display],
                ranks=ranks,
            )
            quiet = quiet or not ranks.leader
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; go on with: {again(resumed=resume)}") from None
    console = Console(quiet=quiet, highlight=False)
    console.print(result_table(result, console.width))
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
