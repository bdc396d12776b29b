"""Poisoned experts: which ones screening finds, and what they do to a student that learns from them all the same.

    uv run python benchmarks/poisoned_experts.py --work runs/poisoned     # the same command resumes after a kill

One of the five experts of digits-ni, which all know the ten digits, is replaced by a poisoned version of itself: the
first, the third or the last. *Screened* counts how many of them are suspect, over all seeds, and how many sound experts
are. *Learned* is the test accuracy of the default's student for one seed: of all experts (``warn``), and without the
poisoned one, which is the student of ``refuse``. The thresholds were chosen on seeds 0 to 2. The result goes to
``benchmarks/results/poisoned_experts.json`` and from there to ``docs/poisoned-experts.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import torch
from page_parts import PAGES
from pages import commit
from torch import nn

import exml
from exml import scenarios
from exml.core.errors import ExmlWarning, ExpertError
from exml.core.files import write_json
from exml.core.rng import make_generator
from exml.engine import keep_freed_memory
from exml.experts import Expert, ExpertStream, train_expert
from exml.learning.screening import Panel
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_student
from exml.scenarios import Scenario

RESULT = "poisoned_experts.json"
SCENARIO = "digits-ni"
POSITIONS = (0, 2, 4)


def _head(change: Callable[[nn.Linear, torch.Generator], None]) -> Callable[[Scenario, Expert, int, int], Expert]:
    def poison(_: Scenario, expert: Expert, position: int, seed: int) -> Expert:
        module = copy.deepcopy(expert.module)
        head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            change(head, make_generator("cpu", seed, "poison", position))
        return attrs.evolve(expert, module=module)

    return poison


def _scale(head: nn.Linear, _: torch.Generator) -> None:
    head.weight *= 1e4
    head.bias *= 1e4


def _permute(head: nn.Linear, draws: torch.Generator) -> None:
    order, fixed = torch.arange(len(head.bias)), torch.arange(len(head.bias))
    while bool((order == fixed).any()):
        order = torch.randperm(len(order), generator=draws)
    head.weight.copy_(head.weight[order])
    head.bias.copy_(head.bias[order])


def _constant(head: nn.Linear, _: torch.Generator) -> None:
    head.weight.zero_()
    head.bias.zero_()
    head.bias[3] = 10.0


def _invert(head: nn.Linear, _: torch.Generator) -> None:
    head.weight.neg_()
    head.bias.neg_()


def _prefer(head: nn.Linear, _: torch.Generator) -> None:
    head.bias[3] += 100.0


def _random_labels(scenario: Scenario, expert: Expert, position: int, seed: int) -> Expert:
    own = scenario.experiences[position].train
    order = torch.randperm(len(own), generator=make_generator("cpu", seed, "poison", position))
    samples, training = attrs.evolve(own, labels=own.labels[order]), scenario.training
    module = scenario.make_module(seed, "experts")
    return train_expert(module, samples, training=training, mean=expert.mean, std=expert.std, name=expert.name)


POISONS: dict[str, tuple[str, Callable[[Scenario, Expert, int, int], Expert]]] = {
    "scale": ("its head is multiplied by 10⁴", _head(_scale)),
    "permuted": ("its labels are permuted", _head(_permute)),
    "constant": ("it gives one label to every image", _head(_constant)),
    "random": ("it was trained on random labels", _random_labels),
    "inverted": ("its head is multiplied by −1", _head(_invert)),
    "preferred": ("100 is added to the logit of one class", _head(_prefer)),
}


def stream(seed: int, work: Path, kind: str = "", position: int = 0) -> tuple[Scenario, list[Expert]]:
    """The scenario and its experts, one of them poisoned."""
    scenario = scenarios.load(SCENARIO, seed)
    experts = list(scenario.train_experts(seed, work / "experts" / str(seed)))
    if kind:
        experts[position] = POISONS[kind][1](scenario, experts[position], position, seed)
    return scenario, experts


def suspects(experts: list[Expert]) -> list[str]:
    """The names of the suspect experts, each screened in its turn."""
    panel, found = Panel(), list[str]()
    panel.preview([lambda expert=expert: expert for expert in experts], torch.device("cpu"))
    for expert in experts:
        seen = panel.observe(expert)
        screening = panel.screen(seen)
        if screening.reasons:
            found.append(expert.name)
        else:
            found += [late.expert for late in panel.seat(seen)]
    return found


def screened(seeds: list[int], work: Path) -> dict[str, Any]:
    """For each poison the number of poisoned experts that are suspect, and of the sound ones with them."""
    rows: dict[str, Any] = {}
    for kind in POISONS:
        row = rows[kind] = {"what": POISONS[kind][0], "poisoned": 0, "found": 0, "sound": 0, "false": 0}
        for seed in seeds:
            for position in POSITIONS:
                _, experts = stream(seed, work, kind, position)
                named = suspects(experts)
                row["poisoned"] += 1
                row["found"] += experts[position].name in named
                row["sound"] += len(experts) - 1
                row["false"] += len({*named} - {experts[position].name})
    return rows


def learned(seed: int, kind: str, position: int, work: Path) -> float | None:
    """Test accuracy in percent after the whole stream, without an expert or with it; None if no policy accepts it."""
    path = work / f"{seed}-{kind}-{position}.json"
    if not path.exists():
        scenario, experts = stream(seed, work, "" if kind in ("clean", "without") else kind, position)
        if kind == "without":
            del experts[position]
        strategy = exml.recipes.default(scenario.profile()).build()
        learner = exml.Learner(strategy, scenario.make_student(seed), seed=seed)
        accuracy = None
        with warnings.catch_warnings(), suppress(ExpertError):
            warnings.simplefilter("ignore", ExmlWarning)
            learner.learn_stream(ExpertStream.from_experts(experts))
            accuracy = round(100 * evaluate_student(learner.student, scenario).stream, 2)
        write_json(path, {"accuracy": accuracy})
        print(seed, kind, position, path.read_text(), flush=True)
    return json.loads(path.read_text(encoding="utf-8"))["accuracy"]


def main() -> None:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/poisoned"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="for screening; one is learned")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    seed, work = arguments.seeds[0], arguments.work
    found: dict[str, Any] = {"scenario": SCENARIO, "seeds": arguments.seeds, "commit": commit()}
    found |= attrs.asdict(environment(torch.device("cpu")))
    found["screened"] = screened(arguments.seeds, work)
    found["clean"] = learned(seed, "clean", 0, work)
    found["learned"] = {}
    page = next(page for page in PAGES if RESULT in page.results)
    for position in (0, 4, 2):
        for kind in ("without", *POISONS):
            found["learned"].setdefault(kind, {})[str(position)] = learned(seed, kind, position, work)
            page.record(RESULT, found)


if __name__ == "__main__":
    main()
