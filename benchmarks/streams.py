"""One row of the page *Results* per stream and seed: experts, ensembles, oracle, target and student.

    uv run python benchmarks/streams.py mnist-nc fashion-nc --seeds 0,1,2 --zoo ZOO   # the same command resumes
    uv run python benchmarks/streams.py mnist-nc --seeds 0,1,2 --start unknown --zoo ZOO

Each student learns by the default strategy on one thread, and is evaluated once, on the complete test set. A row is
measured again when its strategy has changed. Rows are merged into ``benchmarks/results/streams.json``, from which
``docs/results.md`` is made. Experts are trained once, into the folder ``--zoo``.

``--start unknown`` withholds the initial weights of the experts from the learner, and ``--start own`` gives each expert
initial weights of its own. ``--adam`` trains the experts by Adam. ``--split validation`` prints rows on validation
images and keeps none. So does ``--training``, which changes settings of the default strategy::

    uv run python benchmarks/streams.py mnist-nc --split validation --training margin=2 sampling=class-balanced
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import torch
import yaml
from pages import RESULTS, commit
from torch import nn

import exml
from exml import Expert, ExpertStream, scenarios
from exml.core.files import write_json
from exml.core.rng import global_seed
from exml.core.serialization import to_plain
from exml.core.shapes import State
from exml.engine import keep_freed_memory
from exml.experts import load_expert, save_expert
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.strategy import Strategy
from exml.recipes import recipe
from exml.runs import agreement, stream_folder
from exml.runs.audit import audit, references
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_student
from exml.scenarios import Scenario

RESULT = "streams.json"
CPU = torch.device("cpu")
Start: TypeAlias = Literal["known", "unknown", "own"]


@attrs.frozen(eq=False)
class Case:
    """A student to be trained.

    Args:
        stream: name in the table.
        key: of the row, which has one seed and one order of experts.
        scenario: whose test sets count; for experts of other origin, only they matter.
        experts: in the order of the stream.
        student: untrained.
        strategy: of the learner.
        seed: of the learner.
        start: initial weights of the experts, if the learner knows them.
        about: further fields of the row.
    """

    stream: str
    key: str
    scenario: Scenario
    experts: ExpertStream
    student: nn.Module
    strategy: Strategy
    seed: int
    start: State | None = None
    about: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


class Rows:
    """The rows of a result file, which several processes may extend one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, dict[str, Any]]:
        """All rows by key."""
        return json.loads(self.path.read_text(encoding="utf-8"))["rows"] if self.path.exists() else {}

    def add(self, case: Case, row: Mapping[str, Any]) -> None:
        """Keep a row together with those that others have added since."""
        rows = self.read() | {f"{case.stream} | {case.key}": dict(row)}
        write_json(self.path, {"rows": dict(sorted(rows.items()))})

    def lacks(self, case: Case) -> bool:
        """Whether the row is missing, or of another strategy."""
        found = self.read().get(f"{case.stream} | {case.key}")
        return found is None or found["strategy"] != digest(case.strategy)


def digest(strategy: Strategy) -> str:
    """A short checksum of all settings."""
    return hashlib.sha256(json.dumps(strategy.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Train the student, or finish the training in a folder, and evaluate it; accuracies in percent."""
    spent, before = {"seconds": 0.0, "processor_seconds": 0.0}, [0.0, 0.0]
    resumed = CheckpointFolder.of(folder).exists()

    def clock(event: events.Event, /) -> None:
        now = [time.perf_counter(), time.process_time()]
        if isinstance(event, events.ExperienceStarted):
            before[:] = now
        elif isinstance(event, events.ExperienceFinished):
            for name, end, begin in zip(spent, now, before, strict=True):
                spent[name] += end - begin

    def fresh(place: Path | None) -> exml.Learner:
        made = exml.Learner(case.strategy, case.student, seed=case.seed, folder=place, observers=[clock])
        made.start = case.start
        return made

    learner = fresh(None).resume(folder) if resumed else fresh(folder)
    learner.learn_stream(case.experts)
    reached = evaluate_student(learner.student, case.scenario).stream
    known = references(case.experts, case.scenario, CPU)
    found = audit(
        case.strategy, case.experts, case.scenario, reached, known, seed=case.seed, device=CPU, start=case.start
    )
    ids = learner.classes_seen
    student = Expert(
        learner.student, ids, case.scenario.image_shape, outputs=range(case.scenario.classes), name="student"
    )
    loads = [partial(case.experts.__getitem__, place) for place in range(len(case.experts))]
    report = agreement(student, loads, seed=case.seed)
    percent = {
        name: None if value is None else round(100 * value, 2)
        for name in ("ensemble", "oracle", "target", "student")
        for value in [getattr(found, name)]
    }
    gap = None if found.recovered_gap is None else round(found.recovered_gap, 3)
    return {
        "stream": case.stream,
        "seed": case.seed,
        **case.about,
        "best_ensemble": found.best_ensemble,
        **percent,
        "no_target": found.reason,
        "recovered_gap": gap,
        "agreement": round(100 * report.score, 1),
        # The time before a resumption is lost.
        **{name: None if resumed else round(value, 1) for name, value in spent.items()},
        "images": sum(len(test) for test in {id(part.test): part.test for part in case.scenario.experiences}.values()),
        "strategy": digest(case.strategy),
        "commit": commit(),
        **{name: to_plain(environment(CPU))[name] for name in ("hardware", "threads", "versions")},
    }


def measured(cases: Sequence[Case], rows: Rows | None, work: Path) -> None:
    """Measure what is missing, row by row; without a file, only print."""
    for case in cases:
        if rows is None or rows.lacks(case):
            folder = work / stream_folder(f"{case.stream}-{case.key}-{digest(case.strategy)}", case.seed)
            row = measure(case, folder)
            if rows is not None:
                rows.add(case, row)
            shutil.rmtree(folder)
            shown = ("ensemble", "oracle", "target", "student", "recovered_gap", "agreement", "processor_seconds")
            print(case.stream, case.key, {name: row[name] for name in shown}, flush=True)


def of_scenario(name: str, seed: int, start: Start, adam: bool, split: scenarios.Split, zoo: Path) -> Case:
    """The row of a scenario: the experts of its recipe, or with other initial weights or another optimizer."""
    scenario = scenarios.load(name, seed, split)
    folder = zoo / stream_folder(name, seed)
    if adam:
        experts = _by_adam(scenario, seed, folder.with_name(f"{folder.name}-adam"))
    elif start == "own":
        parts = [attrs.evolve(scenario, experiences=(part,)) for part in scenario.experiences]
        place = folder.with_name(f"{folder.name}-own")
        experts = ExpertStream(
            [path for i, part in enumerate(parts) for path in part.train_experts(100 * (seed + 1) + i, place).experts]
        )
    else:
        experts = scenario.train_experts(seed, folder)
    student = scenario.make_student(seed)
    strategy = recipe("exml", scenario.profile(), student=student).build()
    weights = scenario.make_module(seed, "experts").state_dict() if start == "known" else None
    variant = [{"known": "", "unknown": "start unknown", "own": "own starts"}[start], "Adam" if adam else ""]
    title = ", ".join([name, *filter(None, variant)])
    about = {"start": start, "optimizer": "Adam" if adam else "SGD"}
    return Case(title, f"seed {seed}", scenario, experts, student, strategy, seed, weights, about)


def _by_adam(scenario: Scenario, seed: int, folder: Path) -> ExpertStream:
    """Experts with the epochs and mini-batches of the scenario, trained by Adam with a learning rate of 0.001."""
    training, paths = scenario.training, list[Path]()
    for part in scenario.experiences:
        paths.append(folder / f"expert-{part.index}.json")
        if paths[-1].exists():
            continue
        module = scenario.make_module(seed, "experts")
        outputs = range(scenario.classes)
        expert = Expert(
            module, part.classes, scenario.image_shape, outputs=outputs, mean=scenario.mean, std=scenario.std
        )
        optimizer = torch.optim.Adam(module.parameters(), 0.001)
        with global_seed(seed, "adam", part.index):
            module.train()
            for _ in range(training.epochs):
                for rows in torch.randperm(len(part.train)).split(training.batch_size):
                    logits = module(expert.normalize(part.train.pixels(rows)))
                    loss = nn.functional.cross_entropy(logits, part.train.labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        module.eval()
        save_expert(expert, folder, paths[-1].stem, order=part.index)
    return ExpertStream([partial(load_expert, path) for path in paths])


def numbers(text: str) -> list[int]:
    """Seeds such as 0,1,2."""
    return [int(part) for part in text.split(",")]


def options(description: str | None, work: str) -> argparse.ArgumentParser:
    """What all scripts of rows understand."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=[0], help="such as 0,1,2")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for the checkpoints")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="validation keeps no rows")
    parser.add_argument(
        "--training", nargs="+", default=[], type=setting, metavar="NAME=VALUE", help="of Training; keeps no rows"
    )
    return parser


def setting(text: str) -> tuple[str, Any]:
    """A name and a value in YAML, such as margin=4."""
    name, value = text.split("=", 1)
    return name, yaml.safe_load(value)


def kept(arguments: argparse.Namespace, result: str) -> Rows | None:
    """The file that the rows belong to: none for validation images, or for another than the default strategy."""
    return Rows(RESULTS / result) if arguments.split == "test" and not arguments.training else None


def changed(case: Case, training: Sequence[tuple[str, Any]]) -> Case:
    """The case with other settings of its training."""
    strategy = attrs.evolve(case.strategy, training=attrs.evolve(case.strategy.training, **dict(training)))
    return attrs.evolve(case, strategy=strategy)


def prepare(work: Path) -> None:
    """One thread, and an empty folder."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    keep_freed_memory()


def main() -> None:
    """Measure the rows that are missing, and write the page."""
    parser = options(__doc__, "runs/streams")
    parser.add_argument("scenarios", nargs="+", help="as 'exml scenarios' lists them")
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"), help="folder for the experts")
    parser.add_argument("--start", choices=("known", "unknown", "own"), default="known")
    parser.add_argument("--adam", action="store_true", help="experts that were trained by Adam")
    arguments = parser.parse_args()
    prepare(arguments.work)
    for name in arguments.scenarios:
        for seed in arguments.seeds:
            case = of_scenario(name, seed, arguments.start, arguments.adam, arguments.split, arguments.zoo)
            case = changed(case, arguments.training)
            measured([case], kept(arguments, RESULT), arguments.work / arguments.split)


if __name__ == "__main__":
    main()
