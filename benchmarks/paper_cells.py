"""Cells of a table on one stream, whose strategies differ in one thing; shared by the deviations and the ablation.

Model inversion takes most of the time of the paper's strategies. So the images of all experiences are generated once
per generator and prior and saved in a folder, and a cell costs only its distillation.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit
from safetensors.torch import load_file

import exml
from exml import scenarios
from exml.core.errors import NonFiniteError
from exml.core.files import write_json, write_tensors
from exml.engine import Execution
from exml.experts import ExpertStream
from exml.protocols import STANDALONE, GenerationContext
from exml.runs import stream_folder
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_student

DEFAULT = Execution()


@exml.component
@attrs.frozen
class MadeImages:
    """Images that a generator made before: ``experience-1.safetensors`` and so on in a folder."""

    folder: str

    uses_priors = False
    uses_real_data = False

    def __call__(
        self, expert: exml.Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /
    ) -> exml.Samples:
        """The samples of the context's experience."""
        samples = exml.Samples.from_state(load_file(f"{self.folder}/experience-{context.experience}.safetensors"))
        assert len(samples) == size, f"expected {size} samples, got {len(samples)}"
        return samples.to(expert.device)


def shared(strategy: exml.Strategy, scenario: str, seed: int, work: Path) -> exml.Strategy:
    """The strategy with saved images, which are generated now if they are missing; unchanged if it inverts none."""
    generator = strategy.generator
    if not generator.uses_priors:
        return strategy
    experts = experts_of(work, scenario, seed)
    shares = [strategy.buffer.share(number) for number in range(1, len(experts) + 1)]
    plain = strategy.to_dict()
    own = getattr(generator, "augmentation", None) is not None
    parts = [plain["generator"], plain["prior"], None if own else plain["augmentation"], shares, scenario, seed]
    folder = work / "images" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    for number, (expert, share) in enumerate(zip(experts, shares, strict=True), start=1):
        path = folder / f"experience-{number}.safetensors"
        if not path.exists():
            context = GenerationContext(strategy.prior, strategy.augmentation, experience=number)
            state = generator(expert, share, 1_000 * seed + number, context).state()
            write_tensors(path, state)
    return attrs.evolve(strategy, generator=MadeImages(str(folder)), prior=None)


@lru_cache
def experts_of(work: Path, scenario: str, seed: int) -> ExpertStream:
    """The experts of a scenario and a seed, trained unless they are in the zoo ``experts``."""
    return scenarios.load(scenario, seed).train_experts(seed, work / "experts" / stream_folder(scenario, seed))


def measure(
    cells: Mapping[str, Callable[[int], exml.Strategy]],
    scenario: str,
    seeds: Sequence[int],
    work: Path,
    save: Callable[[], None],
    execution: Execution = DEFAULT,
) -> None:
    """Measure the cells without a result, seed by seed, and call ``save`` after each.

    ``cells`` makes the strategy of each cell for a seed, by name. A diverged student is a result, too.
    """
    torch.set_num_threads(1)
    for seed in seeds:
        loaded, experts = scenarios.load(scenario, seed), experts_of(work, scenario, seed)
        for name, make in cells.items():
            path, wanted = _path(work, scenario, seed, name), make(seed)
            if path.exists():
                done = exml.Strategy.from_dict(json.loads(path.read_text(encoding="utf-8"))["strategy"])
                if done == wanted:
                    continue
            print(f"{scenario}, seed {seed}: {name}", end=" ", flush=True)
            began = time.process_time()
            ready, student = shared(wanted, scenario, seed, work), loaded.make_student(seed)
            learner = exml.Learner(ready, student, seed=seed, execution=execution)
            try:
                learner.learn_stream(experts)
                seen = evaluate_student(learner.student, loaded).stream_until(len(experts))
                accuracy: float | str = round(100 * seen, 2)
            except NonFiniteError:
                accuracy = "diverged"
            seconds = round(time.process_time() - began, 1)
            print(accuracy, f"({seconds} s of the processor)", flush=True)
            row = {"accuracy": accuracy, "processor_s": seconds, "precision": execution.precision}
            row |= {"strategy": wanted.to_dict(), "environment": attrs.asdict(environment(torch.device("cpu")))}
            write_json(path, row)
            save()


def _path(work: Path, scenario: str, seed: int, name: str) -> Path:
    return work / "cells" / stream_folder(scenario, seed) / f"{name}.json"


def gather(
    cells: Mapping[str, Callable[[int], exml.Strategy]], scenario: str, seeds: Sequence[int], work: Path
) -> dict[str, Any]:
    """The measurements of a scenario: conditions, and accuracies in percent (or "diverged") by cell and seed."""
    paths = [path for seed in seeds for path in sorted(_path(work, scenario, seed, "*").parent.glob("*.json"))]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    places = [row["environment"] for row in rows]
    accuracy: dict[str, dict[str, float | str]] = {name: {} for name in cells}
    for name, seed in itertools.product(cells, seeds):
        path = _path(work, scenario, seed, name)
        if path.exists():
            accuracy[name][str(seed)] = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
    return {
        "hardware": sorted({place["hardware"] for place in places}),
        "threads": sorted({place["threads"] for place in places}),
        "precision": sorted({row.get("precision", "float32") for row in rows}),
        "versions": places[0]["versions"] if places else {},
        "commit": commit(),
        "processor_minutes": round(sum(row["processor_s"] for row in rows) / 60, 1),
        "accuracy": accuracy,
    }


def slug(*words: str) -> str:
    """The words as the name of a file."""
    return "-".join(re.findall(r"[^\W_]+", " ".join(words).lower()))


def arguments(about: str | None, work: str, seeds: list[int]) -> argparse.ArgumentParser:
    """The options that every table of cells has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for experts, images and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    return parser
