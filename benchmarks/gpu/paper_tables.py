"""The paper's MNIST and CIFAR-10 columns at the whole budget with five seeds, most valuable first.

    EXML_DATA=... uv run python -u benchmarks/gpu/paper_tables.py --work DIR  # on a GPU; resumes after a kill
    uv run python -u benchmarks/gpu/paper_tables.py --device cpu --scale 0.0002 --seeds 1 --work DIR --out FILE

``--scale`` is the budget; below 1 the experts have a single epoch. After each cell, all cells are copied to the folder
``reproduction/`` next to the JSON file, where ``benchmarks/reproduction_page.py`` reads them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import reproduction
from measuring import arguments, provenance
from reproduction import Reproduction

from exml.core.files import write_json
from exml.learning.events import Event, JobEnded
from exml.runs import LocalProcesses

MNIST = ("mnist-joint", "mnist-nc")
CIFAR10 = ("cifar10-joint", "cifar10-nc", "cifar10-mt")
MOST_VALUABLE_FIRST = (
    Reproduction(parts=("table2", "figure2"), scenarios=MNIST),
    Reproduction(parts=("table2",), scenarios=CIFAR10),
    Reproduction(parts=("table2",), scenarios=("cifar10-joint",), recipes=("reference",)),
    Reproduction(parts=("table2",), scenarios=MNIST, recipes=("reference",)),
    Reproduction(parts=("table2",), scenarios=("cifar10-nc", "cifar10-mt"), recipes=("reference",)),
    Reproduction(parts=("figure3",)),
)


def main() -> None:
    """Measure what is not measured yet, step by step."""
    parser = arguments(__doc__, "reproduction_cuda.json")
    parser.add_argument("--work", type=Path, default=Path("runs/reproduction"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4, help="cells at a time; on a GPU they share it")
    given = parser.parse_args()
    cuda = given.device == "cuda"
    steps = [
        attrs.evolve(
            step,
            seeds=tuple(range(given.seeds)),
            budget=given.scale,
            expert_training="" if given.scale == 1 else "epochs=1",
            device=given.device,
            compile="capture" if cuda else "never",
            threads=given.threads or 1,
            gpus=1 / given.workers if cuda else 0,
        )
        for step in MOST_VALUABLE_FIRST
    ]
    found = provenance(torch.device(given.device)) | {"budget": given.scale, "seeds": given.seeds}
    kept = given.out.parent / "reproduction"

    def write(failed: int, *, complete: bool) -> None:
        cells = len(reproduction.read_cells(given.work))
        if cells:
            reproduction.gather([given.work], kept)
        write_json(given.out, found | {"cells": cells, "failed": failed, "passed": not failed, "complete": complete})

    def observe(event: Event, /) -> None:
        if isinstance(event, JobEnded):
            print(event.name, flush=True)
            write(0, complete=False)

    failed = 0
    for step in steps:
        outcome = reproduction.run(
            step,
            given.work,
            resume=(given.work / "reproduction.json").exists(),
            executor=LocalProcesses(given.workers),
            observers=[observe],
        )
        for name, reason in outcome.plan.absent.items():
            print("not measured:", *name, reason, flush=True)
        failed += len(outcome.failed)
        write(failed, complete=step is steps[-1])


if __name__ == "__main__":
    main()
