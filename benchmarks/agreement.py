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
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr
from torch import nn

import exml
import exml.baselines, exml.core.serialization
from exml import Samples, models, scenarios
from exml.core.errors import ExmlWarning
from exml.core.files import write_json, write_tensors
from exml.engine import keep_freed_memory
from exml.experts import Expert, ExpertProfile, ExpertStream, train_expert
from exml.models import Normalized
from exml.recipes import at_budget, recipe
from exml.runs import agreement
from exml.runs.environment import environment
from exml.runs.evaluation import BASELINES, accuracy, student_predictor
from exml.scenarios.digits import SETUP, digit_images

RESULT = "agreement.json"
STREAMS = {
    "digits-joint": "one expert on ten digits",
    "digits-nc": "five experts on two digits each",
    "digits-ni": "five experts on ten digits each",
    "digits-overlap": "three architectures, on the digits 0–4, 3–7 and 6–9",
    "mnist-nc": "five experts on two digits of MNIST each",
}
RECIPES = ("exml", "model-inversion", "procedural", "data-impression", "auxiliary", "noise")
BUDGETS = {"digits": (1.0, 0.1, 0.02), "mnist": (0.1, 0.02)}
FIGURES = ("score", "among_all", "inversions", "drawings", "ensemble", "min_entropy", "confidence")
OVERLAP = (
    ((0, 1, 2, 3, 4), "conv-net", {}),
    ((3, 4, 5, 6, 7), "conv-net", {"batch_norm": False, "widths": [8, 16]}),
    ((6, 7, 8, 9), "lenet5", {}),
)


@attrs.frozen(eq=False)
class Stream:
    """Experts, an untrained student and held-out images."""

    experts: list[Expert]
    student: Normalized
    validation: Samples
    test: Samples


@cache
def stream(name: str, seed: int, work: Path) -> Stream:
    """A stream of trained experts."""
    source = "digits-joint" if name == "digits-overlap" else name
    parts = [scenarios.load(source, seed, split).experiences for split in ("validation", "test")]
    scenario = scenarios.load(source, seed)
    held_out = [Samples.concat(list({id(e.test): e.test for e in experiences}.values())) for experiences in parts]
    if name == "digits-overlap":
        experts = [_overlapping(seed, *row) for row in OVERLAP]
    else:
        experts = list(scenario.train_experts(seed, work / "experts" / f"{name}-{seed}"))
    return Stream(experts, scenario.make_student(seed), *held_out)


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
        accuracies: dict[str, float] = {}
        for split in ("validation", "test"):
            images = getattr(found, split)
            accuracies[split] = 100 * accuracy(student_predictor(student.module), images)
            accuracies[f"{split} experts"] = reference(name, seed, split, work)
        row = agreement(student, [lambda expert=expert: expert for expert in found.experts], seed=seed)
        write_json(path, {**accuracies, "agreement": exml.core.serialization.to_plain(row)})
        print(name, seed, kind, budget, round(accuracies["test"], 1), row.score, row.warning, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def reference(name: str, seed: int, split: str, work: Path) -> float:
    """The accuracy of the best expert or ensemble, in percent."""
    found = stream(name, seed, work)
    images, experts = getattr(found, split), ExpertStream.from_experts(found.experts)
    ensembles = [BASELINES[row](experts, 10) for row in ("Ensemble Avg. (logits)", "Min. Entropy")]
    ensembles += [exml.baselines.EnsembleAverage("centered", "known")(experts, 10)]
    singles = [exml.baselines.EnsembleAverage(units="known")(experts[i : i + 1], 10) for i in range(len(experts))]
    return 100 * max(accuracy(predict, images) for predict in (*ensembles, *singles))
