"""Does the agreement with the experts, measured without data, rank students by their accuracy?

    uv run python benchmarks/agreement.py --work runs/agreement     # the same command resumes after a kill

Students of several streams, strategies, budgets and seeds are compared with their experts by
:func:`exml.runs.agreement`, and evaluated on images that neither has seen. The figure in the verdict and the bounds of
the warning were chosen on seed 0 with the validation images. The result counts the other seeds, with the test images;
it goes to ``benchmarks/results/agreement.json`` and from there to ``docs/evaluation.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import warnings
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import attrs
import torch
from page_parts import PAGES
from pages import commit
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr
from torch import nn

import exml
from exml import Samples, models, scenarios
from exml.core.errors import ExmlWarning
from exml.core.files import write_json, write_tensors
from exml.core.serialization import from_plain, to_plain
from exml.engine import keep_freed_memory
from exml.experts import Expert, ExpertProfile, ExpertStream, train_expert
from exml.models import Normalized
from exml.recipes import at_budget, recipe
from exml.runs import Agreement, agreement
from exml.runs.environment import environment
from exml.runs.evaluation import ENSEMBLES, accuracy, student_predictor
from exml.scenarios.digits import SETUP, digit_images

RESULT = "agreement.json"
STREAMS = {
    "digits-joint": "one expert on ten digits",
    "digits-nc": "five experts on two digits each",
    "digits-ni": "five experts on ten digits each",
    "digits-overlap": "three architectures, on the digits 0–4, 3–7 and 6–9",
}
RECIPES = ("exml", "model-inversion", "procedural", "data-impression", "auxiliary", "noise")
WHOLE = ("exml", "procedural")  # also with all of their work, which gives students as good as the experts
MARGIN = 1.0  # points by which a student is worse than the best expert or ensemble
OVERLAP = (
    ((0, 1, 2, 3, 4), "conv-net", {}),
    ((3, 4, 5, 6, 7), "conv-net", {"batch_norm": False, "widths": [8, 16]}),
    ((6, 7, 8, 9), "conv-net", {"widths": [4, 8, 16]}),
)


@attrs.frozen(eq=False)
class Stream:
    """Experts, an untrained student and held-out images."""

    experts: list[Expert]
    student: Normalized
    held_out: dict[str, Samples]


@cache
def stream(name: str, seed: int, work: Path) -> Stream:
    """A stream of trained experts."""
    source = "digits-joint" if name == "digits-overlap" else name
    scenario, held_out = scenarios.load(source, seed), dict[str, Samples]()
    for split in ("validation", "test"):
        parts = {id(part.test): part.test for part in scenarios.load(source, seed, split).experiences}
        held_out[split] = Samples.concat(list(parts.values()))
    if name == "digits-overlap":
        experts = [_overlapping(seed, *row) for row in OVERLAP]
    else:
        experts = list(scenario.train_experts(seed, work / "experts" / f"{name}-{seed}"))
    return Stream(experts, scenario.make_student(seed), held_out)


def _overlapping(seed: int, classes: tuple[int, ...], architecture: str, settings: dict[str, Any]) -> Expert:
    train = digit_images()["train"]
    own = train[torch.isin(train.labels, torch.tensor(classes))]
    torch.manual_seed(seed)
    module: nn.Module = models.build(architecture, channels=1, classes=len(classes), image_size=8, **settings)
    return train_expert(module, own, training=SETUP.training, mean=(0.3,), std=(0.37,), name=str(classes), seed=seed)


def learned(name: str, seed: int, kind: str, budget: float, work: Path) -> Expert:
    """The student of a strategy, trained once."""
    found = stream(name, seed, work)
    path = work / "students" / f"{name}-{seed}-{kind}-{budget}.safetensors"
    if not path.exists():
        learner = exml.Learner(
            at_budget(recipe(kind, ExpertProfile.from_experts(found.experts), student=found.student).build(), budget),
            copy.deepcopy(found.student),
            seed=seed,
        )
        learner.learn_stream(ExpertStream.from_experts(found.experts))
        write_tensors(path, learner.student.state_dict())
    student = copy.deepcopy(found.student)
    student.load_state_dict(load_file(path))
    return Expert(student, tuple(range(10)), found.experts[0].image_shape, name="student")


def measured(name: str, seed: int, kind: str, budget: float, work: Path) -> dict[str, Any]:
    """Accuracies of a student and of its experts, in percent, and its agreement with them."""
    path = work / "measured" / f"{name}-{seed}-{kind}-{budget}.json"
    if not path.exists():
        student, found = learned(name, seed, kind, budget, work), stream(name, seed, work)
        row: dict[str, Any] = {"stream": name, "seed": seed, "recipe": kind, "budget": budget}
        for split, images in found.held_out.items():
            row[split] = 100 * accuracy(student_predictor(student.module), images)
            row[f"{split} experts"] = reference(name, seed, split, work)
        report = agreement(student, [lambda expert=expert: expert for expert in found.experts], seed=seed, images=256)
        write_json(path, row | {"agreement": to_plain(report)})
        print(name, seed, kind, budget, round(row["test"], 1), report.score, report.warning, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def reference(name: str, seed: int, split: str, work: Path) -> float:
    """The accuracy of the best expert or ensemble, in percent."""
    found = stream(name, seed, work)
    images, experts = found.held_out[split], ExpertStream.from_experts(found.experts)
    streams = [experts, *(experts[place : place + 1] for place in range(len(experts)))]
    predictors = [ensemble(experts, 10) for experts in streams for ensemble in ENSEMBLES.values()]
    return 100 * max(accuracy(predict, images) for predict in predictors)


def figures(row: dict[str, Any]) -> dict[str, float]:
    """The figures that may rank students."""
    report = row["agreement"]
    found = from_plain(report, Agreement)
    means = {
        name: statistics.fmean(expert[name] for expert in report["experts"]) for name in ("inversions", "drawings")
    }
    means |= {"among_all": found.among_all, "relative": found.relative}
    return means | {name: report[name] for name in ("ensemble", "min_entropy", "confidence")}


def ranked(rows: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """Rank correlations of the figures with the accuracy, and how often the warning is right."""
    accuracies = [row[split] for row in rows]
    found: dict[str, Any] = {"n": len(rows), "accuracy": [round(min(accuracies), 1), round(max(accuracies), 1)]}
    for name in figures(rows[0]):
        values = [figures(row)[name] for row in rows]
        pair: tuple[Any, Any] = spearmanr(values, accuracies)[0], kendalltau(values, accuracies)[0]
        found[name] = [round(float(value), 3) for value in pair]
    found["choices"] = choices(rows, split)
    worse = [row[split] < row[f"{split} experts"] - MARGIN for row in rows]
    warned = [row["agreement"]["warning"] is not None for row in rows]
    pairs = list(zip(worse, warned, strict=True))
    found["warnings"] = {"worse": sum(worse), "worse_warned": sum(a and b for a, b in pairs)}
    found["warnings"] |= {"others": len(rows) - sum(worse), "others_warned": sum(b and not a for a, b in pairs)}
    return found


def choices(rows: list[dict[str, Any]], split: str) -> dict[str, int]:
    """In how many pairs of two strategies with the same work a figure prefers the student with the higher accuracy."""
    found: dict[str, int] = dict.fromkeys(("pairs", "among_all", "inversions"), 0)
    for one, other in combinations(rows, 2):
        alike = all(one[name] == other[name] for name in ("stream", "seed", "budget"))
        if alike and abs(difference := one[split] - other[split]) > MARGIN:
            found["pairs"] += 1
            for name in ("among_all", "inversions"):
                found[name] += difference * (figures(one)[name] - figures(other)[name]) > 0
    return found


def main() -> None:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/agreement"), help="folder for the students")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="the first one is for choices")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.02], help="shares of the strategies' work")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.simplefilter("ignore", ExmlWarning)
    found: dict[str, Any] = {"commit": commit(), **attrs.asdict(environment(torch.device("cpu")))}
    found |= {"seeds": arguments.seeds, "recipes": RECIPES, "budgets": arguments.budgets, "margin": MARGIN}
    found["whole"] = WHOLE
    page = next(page for page in PAGES if RESULT in page.results)
    found |= {"tested": {}, "chosen": {}}
    for part, seeds, split in (("chosen", arguments.seeds[:1], "validation"), ("tested", arguments.seeds[1:], "test")):
        pooled: list[dict[str, Any]] = []
        for name in STREAMS:
            cases = [(name, seed, kind, budget) for seed in seeds for budget in arguments.budgets for kind in RECIPES]
            cases += [(name, seed, kind, 1.0) for seed in seeds for kind in WHOLE]
            rows = [measured(*case, arguments.work) for case in cases]
            pooled += rows
            found[part][name] = {"what": STREAMS[name], **ranked(rows, split)}
            page.record(RESULT, found)
        found[part]["pooled"] = {"what": "all of them together", **ranked(pooled, split)}
        page.record(RESULT, found)


if __name__ == "__main__":
    main()
