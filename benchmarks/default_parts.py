"""The default strategy without one of its parts at a time: accuracy of the target and of the student.

    EXML_DATA=... uv run python benchmarks/default_parts.py mnist-nc domains --seeds 0,1,2 --zoo ZOO   # resumes
    EXML_DATA=... uv run python benchmarks/default_parts.py mnist-nc domains overlapping --seeds 0,1,2 --targets

Everything else, including the number of steps and images, is that of the default. Accuracies are those on validation
images, the last 10,000 training images. ``--targets`` leaves out the steps of the calibration, for which the target
alone is evaluated. Measurements go to ``benchmarks/results/default_parts.json`` and from there to
``docs/ablation.md``.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import strangers
from page_parts import conditions
from pages import RESULTS, Found, commit, made_by, mean, missing, table, wrap
from streams import CPU, Case, Rows, Start, digest, measured, of_scenario, options, prepare

from exml import calibrations
from exml.core.serialization import to_plain
from exml.generators import EvolvedDrawings, Mixture, ModelInversion, ProceduralImages
from exml.learning.strategy import Strategy
from exml.losses import KLDivergence, MeanSquaredError, Sum
from exml.runs.audit import audit, references
from exml.runs.environment import environment

RESULT = "default_parts.json"
COMMAND = "uv run python benchmarks/default_parts.py"
Change = Callable[[Strategy], Strategy]
Group: TypeAlias = dict[tuple[Any, ...], Mapping[str, Any]]
NOTHING = "nothing"
STARTS: Sequence[Start] = ("known", "unknown")


def trained(**settings: Any) -> Change:
    """With other settings of the training."""
    return lambda strategy: attrs.evolve(strategy, training=attrs.evolve(strategy.training, **settings))


def images_other_than(leaves_out: Callable[[Any], bool]) -> Change:
    """Without some of the generators of the mixture; the others keep their weights."""

    def change(strategy: Strategy) -> Strategy:
        mixed: Any = strategy.generator
        rest = [pair for pair in zip(mixed.generators, mixed.weights, strict=True) if not leaves_out(pair[0])]
        generators, weights = zip(*rest, strict=True)
        prior = strategy.prior if any(map(_inverted, generators)) else None
        return attrs.evolve(strategy, generator=Mixture(generators, weights), prior=prior)

    return change


def strokes_alone(strategy: Strategy) -> Strategy:
    """With drawings that are no solid shapes."""
    mixed: Any = strategy.generator
    generators = [attrs.evolve(part, filled=0) if hasattr(part, "filled") else part for part in mixed.generators]
    return attrs.evolve(strategy, generator=attrs.evolve(mixed, generators=generators))


def loss_other_than(kind: type) -> Change:
    """Without one term of the loss."""

    def change(strategy: Strategy) -> Strategy:
        loss: Any = strategy.loss
        terms = [term for term in loss.losses if not isinstance(getattr(term, "loss", term), kind)]
        return attrs.evolve(strategy, loss=Sum(tuple(terms)))

    return change


def calibrated_without(kind: type) -> Change:
    """Without the steps of one class."""

    def change(strategy: Strategy) -> Strategy:
        scale: Any = strategy.calibration
        kept = {
            name: [step for step in getattr(scale, name) if not isinstance(step, kind)] for name in ("steps", "related")
        }
        return attrs.evolve(strategy, calibration=attrs.evolve(scale, **kept))

    return change


def _evolved(generator: Any) -> bool:
    return isinstance(generator, EvolvedDrawings) and generator.steps > 0


def _inverted(generator: Any) -> bool:
    return isinstance(generator, ModelInversion)


def _textures(generator: Any) -> bool:
    return isinstance(generator, ProceduralImages) and "dead-leaves" in generator.kinds


SHARED: Mapping[str, Change] = {
    "evolved drawings": images_other_than(_evolved),
    "KL divergence": loss_other_than(KLDivergence),
    "MSE": loss_other_than(MeanSquaredError),
}
OTHERS: Mapping[str, Change] = {
    "inverted drawings": images_other_than(_inverted),
    "textures": images_other_than(_textures),
    "inverted drawings, textures": images_other_than(lambda generator: _inverted(generator) or _textures(generator)),
}
PARTS: Mapping[str, Mapping[str, Change]] = {
    "mnist-nc": {
        **SHARED,
        "typicality": calibrated_without(calibrations.Typicality),
        "stored targets": trained(stored=False),
        "copy of the first expert": lambda strategy: attrs.evolve(strategy, student="continue"),
    },
    "fashion-nc": {"solid shapes": strokes_alone},
    "domains": {
        "margin": trained(margin=0.0),
        "class-balanced sampling": trained(sampling="uniform"),
        "margin, class-balanced sampling": trained(margin=0.0, sampling="uniform"),
        **SHARED,
        **OTHERS,
    },
    "overlapping": OTHERS,
    "same classes": OTHERS,
}
"""What is left out, by stream."""


def of_calibration(strategy: Strategy) -> dict[str, Change]:
    """Each kind of step of the strategy's calibration."""
    scale: Any = strategy.calibration
    steps = scale.steps + scale.related
    return {f"step {kind.__name__}": calibrated_without(kind) for kind in dict.fromkeys(map(type, steps))}


def cases(stream: str, seed: int, work: Path, zoo: Path, targets: bool) -> Iterator[Case]:
    """The default students of a stream, for domains in both orders; targets also without the start of the experts."""
    if stream in strangers.STREAMS:
        yield from strangers.cases(stream, seed, 2 if stream == "domains" else 1, work, "validation")
    else:
        for start in STARTS if targets else STARTS[:1]:
            yield of_scenario(stream, seed, start, adam=False, split="validation", zoo=zoo)


def left_out(case: Case, part: str, change: Change) -> Case:
    """A case without a part."""
    about = {**case.about, "left_out": part, "split": "validation"}
    return attrs.evolve(case, strategy=change(case.strategy), key=f"{case.key}, without {part}", about=about)


def target_of(case: Case) -> dict[str, Any]:
    """The row of a target alone, in percent."""
    known = references(case.experts, case.scenario, CPU)
    found = audit(
        case.strategy, case.experts, case.scenario, 0.0, known, seed=case.seed, device=CPU, start=case.start
    ).target
    return {
        "stream": case.stream,
        "seed": case.seed,
        **case.about,
        "target": None if found is None else round(100 * found, 2),
        "strategy": digest(case.strategy),
        "commit": commit(),
        **{name: to_plain(environment(CPU))[name] for name in ("hardware", "threads", "versions")},
    }


INTRODUCTION = """## Parts of the default strategy

`recipes.default` without one of its parts at a time. Everything else, including the number of steps and images, is
that of the default. Accuracies in percent on validation images (the last 10,000 training images), ± the standard
deviation over n seeds or orders of the experts. A *difference* from the complete strategy is the mean over the same
seeds and orders. Without *stored targets*, both teachers are asked in each step. Steps of the calibration (`step ...`)
were left out of the target alone. The [results](results.md) describe the streams.
"""


def section(found: Found | None) -> list[str]:
    """The part of the page on the default strategy."""
    command = f"{COMMAND} {shlex.join(PARTS)} --seeds 0,1,2"
    if found is None:
        return [INTRODUCTION, missing(command)]
    groups, rows = _groups(found["rows"].values()), list[tuple[str, ...]]()
    for (stream, part), group in groups.items():
        columns = {name: _compared(group, groups[stream, NOTHING], name) for name in ("target", "student")}
        count = len(columns["student"][0] or columns["target"][0])
        cells = [text for values, changes in columns.values() for text in _shown(values, changes, part)]
        rows.append((stream, part, *cells, str(count)))
    head = ("stream|", "left out|", "target", "difference", "student", "difference", "n")
    return [
        INTRODUCTION,
        *table(head, rows),
        "",
        *wrap(made_by(f"{command}`, the rows of steps with `--targets", conditions(found))),
    ]


def _compared(group: Group, whole: Group, name: str) -> tuple[list[float], list[float]]:
    """The values of a column, and their differences from those of the complete strategy."""
    values = {key: row[name] for key, row in group.items() if row.get(name) is not None}
    base = {key: row[name] for key, row in whole.items() if row.get(name) is not None}
    return list(values.values()), [value - base[key] for key, value in values.items() if key in base]


def _shown(values: Sequence[float], changes: Sequence[float], part: str) -> tuple[str, str]:
    if not values:
        return "", ""
    return mean(values), mean(changes, "+") if changes and part != NOTHING else ""


def _groups(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Group]:
    """The rows of each stream and part, by seed and order; the complete default first."""
    groups = dict[tuple[str, str], Group]()
    for row in sorted(rows, key=lambda row: (row["stream"], row["left_out"] != NOTHING)):
        key = row["seed"], row.get("order")
        group = groups.setdefault((row["stream"], row["left_out"]), {})
        group[key] = {**group.get(key, {}), **row}
    return groups


def main() -> None:
    """Measure the rows that are missing."""
    parser = options(__doc__, "runs/default-parts")
    parser.add_argument("streams", nargs="+", choices=list(PARTS))
    parser.add_argument("--parts", nargs="+", help="what is left out; by default, everything on the page")
    parser.add_argument("--targets", action="store_true", help="the steps of the calibration, without students")
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"), help="folder for the experts")
    arguments = parser.parse_args()
    prepare(arguments.work)
    rows = Rows(RESULTS / RESULT)
    for seed, stream in itertools.product(arguments.seeds, arguments.streams):
        for case in cases(stream, seed, arguments.work, arguments.zoo, arguments.targets):
            changes: dict[str, Change] = of_calibration(case.strategy) if arguments.targets else dict(PARTS[stream])
            for part, change in {NOTHING: trained(), **changes}.items():
                one = left_out(case, part, change)
                if arguments.parts and part not in arguments.parts:
                    continue
                if not arguments.targets:
                    measured([one], rows, arguments.work)
                elif rows.lacks(one := attrs.evolve(one, key=f"{one.key}, target")):
                    rows.add(one, target_of(one))


if __name__ == "__main__":
    main()
