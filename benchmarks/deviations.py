"""What each difference between the paper's text and its code does to the accuracy on mnist-nc.

    uv run python benchmarks/deviations.py --work DIR     # the same command resumes after a kill

Every cell is the code's strategy with one matter changed to the text's way. Measurements go to
``benchmarks/results/deviations.json`` and from there into ``docs/deviations.md``. No setting was chosen on these test
images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import torch

from exml import recipes
from exml.augmentation import Augmentation
from exml.buffers import Cumulative
from exml.combiners import ByClass
from exml.generators import DataImpression
from exml.learning.strategy import Strategy
from exml.normalizers import RawLogits, StandardizeLogits
from exml.priors import GaussianBlur, Sum

sys.path.insert(0, str(Path(__file__).parent))
from pages import Found, Page, made_by, mean, missing, table
from paper_cells import arguments, experts_of, gather, measure, slug

COMMAND = "uv run python benchmarks/deviations.py"
RESULT = "deviations.json"
SCENARIO = "mnist-nc"
IMAGES, STEPS = 0.003, 0.008
"""Budgets: of images and their inversion (each by its root), and of the steps of distillation."""
FAST = {"learning_rate": 0.005, "optimizer": "adam", "schedule": "one-cycle"}
"""In so few steps the paper's SGD learns next to nothing."""
_DRAWN = 1_000
"""Labels of each expert, to count those of classes that it never saw."""
Change: TypeAlias = Callable[[Strategy], Strategy]


@attrs.frozen
class Matter:
    """One row of the table.

    Args:
        base: the code's strategy that is changed.
        cells: the changes, by name; none where there is nothing to measure.
        otherwise: why there is nothing to measure.
    """

    name: str
    text: str
    code: str
    field: str
    base: str = "model-inversion"
    cells: Mapping[str, Change] = attrs.field(factory=dict[str, Change])
    otherwise: str = ""


def _set(*path: str, **changes: Any) -> Change:
    """Change fields of the component at a path in the strategy."""

    def change(part: Any) -> Any:
        if not path:
            return attrs.evolve(part, **changes)
        return attrs.evolve(part, **{path[0]: _set(*path[1:], **changes)(getattr(part, path[0]))})

    return change


def _blur(strategy: Strategy) -> Strategy:
    priors: Any = strategy.prior
    parts = tuple(GaussianBlur(part.weight) if isinstance(part, GaussianBlur) else part for part in priors.priors)
    return attrs.evolve(strategy, prior=Sum(parts))


def _border(strategy: Strategy) -> Strategy:
    return _set("generator", "augmentation", padding="border")(_set(augmentation=Augmentation(shift=4))(strategy))


def _uniform(strategy: Strategy) -> Strategy:
    buffer: Any = strategy.buffer
    return attrs.evolve(strategy, buffer=Cumulative(buffer.size))


def _gathered(strategy: Strategy) -> Strategy:
    return attrs.evolve(strategy, buffer=small(recipes.for_scenario("paper-auxiliary", SCENARIO).build()).buffer)


def _text(strategy: Strategy) -> Strategy:
    return small(recipes.for_scenario("paper-model-inversion", SCENARIO).build())


def small(strategy: Strategy) -> Strategy:
    """At the budgets of this page."""
    steps = attrs.evolve(recipes.at_budget(strategy, STEPS).training, **FAST)
    return attrs.evolve(recipes.at_budget(strategy, IMAGES), training=steps)


MATTERS = (
    Matter(
        "Batch-norm statistics",
        "the sum over all layers of the squared distances of mean and standard deviation",
        "only the last layer, because the hook assigns instead of adding; the mean over channels; variances; once per "
        "mini-batch, while all other losses count once per image",
        '`BatchNormStatistics(layers="last", statistic="variance", reduction="mean", per="batch")`',
        otherwise="none here: LeNet-5 has no batch norm",
    ),
    Matter(
        "Blur",
        "3×3 kernel, squared norm",
        "7×7 kernel, zeros around the image, norm not squared",
        '`GaussianBlur(kernel_size=7, padding="zeros", squared=False)`',
        cells={"as the text": _blur},
    ),
    Matter(
        "*normalize* (Eqs. 6, 7)",
        "not specified",
        "subtracts the mean over the teacher's classes and keeps the scale; nothing with task labels",
        "`normalizer=CenterLogits()`, `RawLogits()`",
        cells={"standardised": _set(normalizer=StandardizeLogits()), "not at all": _set(normalizer=RawLogits())},
    ),
    Matter(
        "Targets (Eq. 8)",
        "of the teacher that knows y_syn; the third case repeats y^ExM in print and is read as (y^ExM + y^S) / 2",
        "both teachers side by side for every image, the mean where classes overlap; y_syn is not used",
        '`combiner=SideBySide(overlap="half")`',
        cells={"as the text": _set(combiner=ByClass(overlap="half"))},
    ),
    Matter(
        "Squared error (Eq. 9)",
        "called the mean squared error, printed as a squared norm",
        "the mean over all classes",
        '`Distillation(reduction="mean")`; also in `recipes.paper`, see above',
        cells={"as a norm": _set("loss", reduction="sum")},
    ),
    Matter(
        "Classes that nobody has brought yet",
        "not specified",
        "target 0 in the squared error, and a part of the softmax of the cross-entropy",
        '`Distillation(classes="all")`',
        cells={"left out": _set("loss", classes="seen")},
    ),
    Matter(
        "Labels of auxiliary images",
        "argmax of the expert, kept",
        "argmax of the combined target, updated at each step",
        '`Distillation(labels="target")`',
        "auxiliary",
        {"as the text": _set("loss", labels="given")},
    ),
    Matter(
        "Buffer of auxiliary images",
        "N of them, from all experiences",
        "the whole dataset in each experience, nothing of earlier ones; for noise, new images at each step",
        "`buffer=Latest(size)`, also for noise",
        "auxiliary",
        {"as the text": _gathered},
    ),
    Matter(
        "Augmentation of auxiliary images",
        "of all images x_syn",
        "none on MNIST",
        "`augmentation=None`",
        "auxiliary",
        {"as the text": _set(augmentation=Augmentation(shift=4))},
    ),
    Matter(
        "Crops in generation",
        "of each image",
        "one for the whole mini-batch, and a color jitter without effect",
        '`ModelInversion(augmentation=Augmentation(parameters="batch", ...))`',
        cells={"as the text": _set("generator", "augmentation", parameters="image")},
    ),
    Matter(
        "Beyond the border",
        "not specified",
        "0 in normalized units, the mean color; the background of MNIST is −0.42",
        '`Augmentation(padding="zeros", fill=...)`',
        cells={"outermost pixels": _border},
    ),
    Matter(
        "Pixels",
        "not specified",
        "clamped to ±3 in normalized units after each step",
        "`ModelInversion(clamp=3.0)`",
        cells={"free": _set("generator", clamp=None)},
    ),
    Matter(
        "When an image is finished",
        "when its class has p > 0.99 (Fig. 2)",
        "after a fixed number of steps",
        "`ModelInversion(stop_at=0.99)`",
        cells={"as the text": _set("generator", stop_at=0.99)},
    ),
    Matter(
        "Mini-batches in generation",
        "not specified",
        "one step of Adam with the sum of the gradients of all mini-batches, which are drawn again for each pass",
        "none: a test shows that the images are the same",
        otherwise="none: the gradient of a pixel and its Adam moments depend only on the losses of its own image. "
        "Only with batch norm does it matter which images share a mini-batch; in exml they are always the same",
    ),
    Matter(
        "Classes of data impression",
        "those of the expert",
        "all output units; for some targets, the argmax is a class that the expert never saw",
        '`DataImpression(classes="all")`',
        "data-impression",
        {"as the text": _set("generator", classes="known")},
    ),
    Matter(
        "Earlier images in the buffer",
        "a uniform subsample of N − N/i",
        "the part of each experience is reduced to N/i",
        "`buffer=EqualParts(N)`",
        cells={"as the text": _uniform},
    ),
    Matter(
        "First experience",
        "learned like the others",
        "can start with a copy of the first expert; off in the published configurations",
        '`student="first-expert"`',
        cells={"a copy": _set(student="first-expert")},
    ),
    Matter(
        "All of these together",
        "`recipes.paper`",
        "`recipes.reference`",
        "",
        cells={"as the text": _text},
    ),
)


def cells() -> dict[str, Callable[[int], Strategy]]:
    """Every strategy that is measured, by the name of its folder."""
    made = {base: _cell(base, _set()) for base in dict.fromkeys(matter.base for matter in MATTERS)}
    for matter in MATTERS:
        for how, change in matter.cells.items():
            made[slug(matter.name, how)] = _cell(matter.base, change)
    return made


def _cell(base: str, change: Change) -> Callable[[int], Strategy]:
    return lambda seed: change(small(recipes.for_scenario(f"reference-{base}", SCENARIO, seed).build()))


def collect(work: Path, seeds: list[int]) -> dict[str, Any]:
    """What was measured, and the labels of data impression that are of classes that the expert never saw."""
    bases = {matter.base for matter in MATTERS}
    return {
        "scenario": SCENARIO,
        "budget": {"images": IMAGES, "steps": STEPS},
        "sizes": {name: _sizes(make(0)) for name, make in cells().items() if name in bases},
        "unseen": {f"{beta:g}": round(100 * _unseen(work, seeds[0], beta), 1) for beta in (0.1, 10.0)},
        **gather(cells(), SCENARIO, seeds, work),
    }


@lru_cache
def _unseen(work: Path, seed: int, beta: float) -> float:
    experts = experts_of(work, SCENARIO, seed)
    draw = DataImpression(beta, iterations=1, classes="all")
    strangers = [~torch.isin(draw(expert, _DRAWN, seed).labels, expert.class_ids) for expert in experts]
    return torch.cat(strangers).float().mean().item()


def _sizes(strategy: Strategy) -> dict[str, int]:
    sizes = {"buffer": getattr(strategy.buffer, "size", 0), "inversion": getattr(strategy.generator, "iterations", 0)}
    return sizes | {"distillation": strategy.training.iterations}


def page(results: Mapping[str, Found]) -> str:
    """The part of the page between the marks."""
    if RESULT not in results:
        return missing(COMMAND) + "\n"
    measured = results[RESULT]
    accuracy, budget, sizes = measured["accuracy"], measured["budget"], measured["sizes"]
    seeds = sorted({seed for row in accuracy.values() for seed in row}, key=int)
    bases = "; ".join(
        f"`reference-{name}` {mean(list(accuracy[name].values()))}, with a buffer of {size['buffer']:,} samples"
        + (f" and {size['inversion']:,} steps of inversion" if size["inversion"] else "")
        for name, size in sizes.items()
        if accuracy.get(name)
    )
    rows = [(row.name, row.text, row.code, row.field, "; ".join(_effects(accuracy, row))) for row in MATTERS]
    shares = " and ".join(f"{share:g} % at β = {beta}" for beta, share in measured["unseen"].items())
    lines = [
        *table(("matter|", "the text|", "the code|", "the switch|", "effect of the text's way|"), rows),
        "",
        f"The last column shows points of stream accuracy on {measured['scenario']}: the text's way minus the code's "
        f"way, mean ± standard deviation of the differences over n of the seeds {', '.join(seeds)}. The code's way "
        f"reaches: {bases}. These are `at_budget` {budget['images']:g} for the images and {budget['steps']:g} for the "
        f"distillation, {next(iter(sizes.values()))['distillation']:,} steps per experience with Adam and a one-cycle "
        "schedule, since the paper's SGD learns almost nothing in so few steps. This is far below the paper's budget, "
        "and effects at another budget may differ. Where only the distillation differs, a cell uses the images of the "
        "code's way." + (" A single seed has no spread: a few points may be chance." if len(seeds) == 1 else ""),
        "",
        f"Of the labels of the code's data impression, {shares} are of classes that the expert never saw (for these "
        "experts; β is 10 for MNIST and CIFAR-10, and 0.1 for CORe50).",
        "",
        made_by(COMMAND, measured),
    ]
    return "\n".join(lines) + "\n"


def _effects(accuracy: Mapping[str, Any], matter: Matter) -> list[str]:
    if not matter.cells:
        return [matter.otherwise]
    return [
        f"{how}: {_effect(accuracy.get(slug(matter.name, how), {}), accuracy.get(matter.base, {}))}"
        for how in matter.cells
    ]


def _effect(here: Found, there: Found) -> str:
    pairs = [(here[seed], there[seed]) for seed in here if seed in there]
    if not pairs:
        return "not measured"
    if any("diverged" in pair for pair in pairs):
        return f"diverged (n = {len(pairs)})"
    return f"{mean([one - other for one, other in pairs], '+')} (n = {len(pairs)})"


PAGE = Page("deviations.md", (RESULT,), page, part=True)


def main() -> None:
    """Measure, and write the result and the page after each cell."""
    given = arguments(__doc__, "runs/deviations", [0, 1]).parse_args()
    measure(cells(), SCENARIO, given.seeds, given.work, lambda: PAGE.record(RESULT, collect(given.work, given.seeds)))


if __name__ == "__main__":
    main()
