"""Normalizer, combiner, augmentation and λ_CE: every combination, on the same stream and the same images.

    uv run python benchmarks/ablation.py --scenario mnist-nc --work DIR    # the same command resumes after a kill

The name of a scenario may say how its experts are trained (``cifar10-nc:epochs=4,schedule=cosine``), and
``DIR/experts`` may be a zoo that has them.

36 cells a seed (24 with tasks). The images of each experience are made once, by Model Inversion ED as the paper's text
has it, so that a cell costs its distillation alone. Measurements go to ``benchmarks/results/ablation_SCENARIO.json``
and from there to ``docs/ablation.md``.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from exml import recipes
from exml.combiners import ByClass, MultiTask, ProductOfExperts, SideBySide
from exml.engine import Execution
from exml.learning.strategy import Strategy
from exml.normalizers import CenterLogits, RawLogits, StandardizeLogits
from exml.protocols import Combiner, Normalizer

sys.path.insert(0, str(Path(__file__).parent))
import default_parts
from pages import Found, Page, made_by, mean, missing, table
from paper_cells import arguments, gather, measure, slug

COMMAND = "uv run python benchmarks/ablation.py"
SCENARIOS = ("mnist-nc", "cifar10-nc", "cifar10-mt")
NORMALIZERS: Mapping[str, Normalizer] = {
    "none": RawLogits(),
    "centred": CenterLogits(),
    "standardised": StandardizeLogits(),
}
COMBINERS: Mapping[str, Combiner] = {"Eq. 8": ByClass(), "side by side": SideBySide(), "product": ProductOfExperts()}
AUGMENTED = ("augmented", "not augmented")
WEIGHTS = (0.0, 1.0)
BUDGET = {"images": 0.003, "steps": 0.006}

TRAINING = {"batch_size": 32, "learning_rate": 0.005, "optimizer": "adam", "schedule": "one-cycle"}
CONTINUING = {"learning_rate": 0.002, "views": 2, "clip_norm": 1.0, "ridge": 0.01, "batch_norm": "running"}
"""On CIFAR-10, where so few steps from scratch end at chance."""

INTRODUCTION = """# Ablation

The effect of the components of the distillation, alone and together: the normalizer (Eqs. 6, 7), the combiner (Eq.
8), the augmentation, and the weight λ of the cross-entropy (Eq. 10). All combinations use the same experts and the
same images, those of `recipes.paper(profile, "model-inversion")`; *not augmented* refers to the distillation alone.
All other settings are as in that recipe except for the optimizer: Adam with a one-cycle schedule, mini-batches of 32,
and a learning rate of 0.005. In so few steps, the paper's SGD would measure the size of the targets rather than their
quality. On CIFAR-10, a step costs twenty times as much, and a student trained from scratch would end at chance.
There, the student starts as in `recipes.default`: as a copy of the first expert, with its running statistics and its
last layer in closed form, a learning rate of 0.002, and two views of each image. `uv run python
benchmarks/make_pages.py` writes this page. The page on [deviations](deviations.md) has more switches.
"""


def combiners(scenario: str) -> Mapping[str, Combiner]:
    """Those that differ: the classes of tasks are disjoint, and within a task side by side is Eq. 8."""
    return {name: one for name, one in COMBINERS.items() if name != "side by side" or _plain(scenario) != "cifar10-mt"}


def _plain(scenario: str) -> str:
    return scenario.split(":")[0]


def cells(scenario: str, images: float, steps: float) -> dict[str, Callable[[int], Strategy]]:
    """Every combination, by the name of its file."""
    grid = itertools.product(NORMALIZERS, combiners(scenario), AUGMENTED, WEIGHTS)
    return {name_of(*cell): _cell(scenario, images, steps, *cell) for cell in grid}


def name_of(normalizer: str, combiner: str, augmented: str, weight: float) -> str:
    """Of a cell's folder."""
    return slug(normalizer, combiner, augmented, f"{weight:g}")


def _cell(
    scenario: str, images: float, steps: float, normalizer: str, combiner: str, augmented: str, weight: float
) -> Callable[[int], Strategy]:
    def make(seed: int) -> Strategy:
        paper = recipes.for_scenario("paper-model-inversion", scenario, seed).build()
        continuing = _plain(scenario).startswith("cifar10")
        changes: dict[str, Any] = TRAINING | (CONTINUING if continuing else {})
        training = attrs.evolve(recipes.at_budget(paper, steps).training, **changes)
        strategy: Any = recipes.at_budget(paper, images)
        inside: Combiner = COMBINERS[combiner]
        if isinstance(paper.combiner, MultiTask):  # the heads of the tasks stay apart
            inside = attrs.evolve(paper.combiner, combiner=inside)
        return attrs.evolve(
            strategy,
            training=training,
            student="first-expert" if continuing else strategy.student,
            # The images are the same in all cells, also without augmentation in the distillation.
            generator=attrs.evolve(strategy.generator, augmentation=strategy.augmentation),
            normalizer=NORMALIZERS[normalizer],
            combiner=inside,
            augmentation=strategy.augmentation if augmented == "augmented" else None,
            loss=attrs.evolve(strategy.loss, cross_entropy=weight),
        )

    return make


def result(scenario: str) -> str:
    """The file with the measurements of a scenario."""
    return f"ablation_{_plain(scenario)}.json"


def collect(scenario: str, images: float, steps: float, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """What was measured, and the sizes of it."""
    made = cells(scenario, images, steps)
    strategy: Any = next(iter(made.values()))(seeds[0])
    sizes = {"buffer": strategy.buffer.size, "inversion": strategy.generator.iterations}
    sizes["distillation"] = strategy.training.iterations
    budget = {"images": images, "steps": steps}
    return {"scenario": scenario, "budget": budget, "sizes": sizes, **gather(made, scenario, seeds, work)}


def page(results: Mapping[str, Found]) -> str:
    """The page, from the measurements by file name."""
    lines = [INTRODUCTION]
    for scenario in SCENARIOS:
        found = results.get(result(scenario))
        body = section(found) if found else [missing(f"{COMMAND} --scenario {scenario}")]
        lines += [f"## {scenario}", "", *body, ""]
    return "\n".join([*lines, *default_parts.section(results.get(default_parts.RESULT))]) + "\n"


def section(measured: Found) -> list[str]:
    """One scenario's tables."""
    scenario, accuracy, sizes, budget = (measured[key] for key in ("scenario", "accuracy", "sizes", "budget"))
    seeds = sorted({seed for row in accuracy.values() for seed in row}, key=int)
    columns = list(itertools.product(combiners(scenario), WEIGHTS))
    rows = [
        (normalizer, augmented, *(_shown(accuracy.get(name_of(normalizer, c, augmented, w), {})) for c, w in columns))
        for normalizer, augmented in itertools.product(NORMALIZERS, AUGMENTED)
    ]
    return [
        f"Stream accuracy in percent; seeds {', '.join(seeds)}, n = {len(seeds)} (± standard deviation); a buffer of "
        f"{sizes['buffer']:,} samples, at most {sizes['inversion']:,} steps of inversion, and "
        f"{sizes['distillation']:,} steps of distillation per experience, which is `at_budget` {budget['images']:g} "
        f"for the images and {budget['steps']:g} for the distillation.",
        "",
        made_by(_command(measured), measured),
        "",
        *table(("normalizer|", "|", *(f"{combiner}, λ = {weight:g}" for combiner, weight in columns)), rows),
        "",
        "Averaged over all cells that differ in nothing else:",
        "",
        *table(("part|", "|", "mean"), margins(scenario, accuracy)),
    ]


def _command(measured: Found) -> str:
    options = [f"--{name} {value:g}" for name, value in measured["budget"].items() if value != BUDGET[name]]
    options += [f"--precision {name}" for name in measured.get("precision", ()) if name != "float32"]
    return " ".join([COMMAND, f"--scenario {measured['scenario']}", *options])


def margins(scenario: str, accuracy: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """For each value of each part the mean over the combinations of the others that are there for all its values."""
    parts: dict[str, Sequence[Any]] = {
        "normalizer": list(NORMALIZERS),
        "combiner": list(combiners(scenario)),
        "augmentation": AUGMENTED,
        "λ": WEIGHTS,
    }
    rows: list[tuple[str, str, str]] = []
    for place, (part, values) in enumerate(parts.items()):
        others = [options for at, options in enumerate(parts.values()) if at != place]
        means: dict[Any, list[float]] = {value: [] for value in values}
        for rest in itertools.product(*others):
            names = [name_of(*(*rest[:place], value, *rest[place:])) for value in values]
            found = [_mean(accuracy.get(name, {})) for name in names]
            for value, here in zip(values, found, strict=True):
                if here is not None and None not in found:
                    means[value].append(here)
        for value in values:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            rows.append((part, text, f"{statistics.fmean(means[value]):.1f}" if means[value] else "–"))
    return rows


def _mean(row: Mapping[str, Any]) -> float | None:
    """None where nothing was measured, or a student diverged."""
    numbers = [value for value in row.values() if value != "diverged"]
    return statistics.fmean(numbers) if numbers and len(numbers) == len(row) else None


def _shown(row: Mapping[str, Any]) -> str:
    numbers = [value for value in row.values() if value != "diverged"]
    if not numbers:
        return "diverged" if row else "–"
    lost = len(row) - len(numbers)
    return mean(numbers) + (f", {lost} diverged" if lost else "")


PAGE = Page("ablation.md", [*map(result, SCENARIOS), default_parts.RESULT], page)


def main() -> None:
    """Measure, and write the result and the page after each cell."""
    parser = arguments(__doc__, "runs/ablation", [0])
    parser.add_argument("--scenario", default="mnist-nc", help=" or ".join(SCENARIOS))
    parser.add_argument("--images", type=float, default=BUDGET["images"], help="budget of the images: each by its root")
    parser.add_argument("--steps", type=float, default=BUDGET["steps"], help="budget of the steps of distillation")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of the distillations")
    given = parser.parse_args()
    if _plain(given.scenario) not in SCENARIOS:
        parser.error(f"expected a scenario of {', '.join(SCENARIOS)}, got {given.scenario}")
    size = (given.scenario, given.images, given.steps)

    def save() -> None:
        PAGE.record(result(given.scenario), collect(*size, given.seeds, given.work))

    measure(cells(*size), given.scenario, given.seeds, given.work, save, Execution(precision=given.precision))


if __name__ == "__main__":
    main()
