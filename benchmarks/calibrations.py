"""How good is the target? The accuracy of experts on a common scale, without a student, on validation images.

    EXML_DATA=... uv run python benchmarks/calibrations.py --work runs/calibrations   # resumes after a kill

Each calibration is a sequence of steps of :class:`exml.calibrations.CommonScale`, or none. The score of a class is the
mean of the calibrated logits of the experts that know it. No student can be expected to be better than this target.
Streams: the scenario *mnist-nc*, with its common start known, estimated from the other experts, or ignored; the same
experts without a common start, and trained by Adam; and the streams of ``strangers.py``. Images are every second of the
last 10,000 training images of each dataset. The result goes to ``benchmarks/results/calibrations.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import attrs
import strangers
import streams
import torch
from pages import RESULTS, ROOT, commit
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.utils import save_image

from exml import Expert, Samples
from exml.calibrations import RELATED, STEPS, Center, CommonScale, PoolOffset, Probabilities, TwoAnchors
from exml.core.files import write_json
from exml.core.rng import make_generator
from exml.core.shapes import State
from exml.engine import keep_freed_memory, narrowing_weights
from exml.generators import EvolvedDrawings
from exml.learning.starts import Starts
from exml.protocols import GenerationContext
from exml.runs.environment import environment

RULES: dict[str, tuple[Any, ...]] = {
    "raw logits": (),
    "probabilities": (Probabilities(),),
    "Center": (Center(),),
    "Center, TwoAnchors": (Center(), TwoAnchors()),
    "Center, Typicality(6.4)": RELATED,
    "Center, Typicality(6.4), TwoAnchors": (*RELATED, TwoAnchors()),
    "Center, RootNorm, MatchedTemperature, PoolOffset(0.5)": (*STEPS[:3], PoolOffset(0.5)),
    "STEPS": STEPS,
    **{
        f"STEPS without {type(left_out).__name__}": tuple(step for step in STEPS if step is not left_out)
        for left_out in STEPS[1:-1]
    },
}
Stream = tuple[list[Expert], list[State | None], Samples]
_COLUMNS = 24


def splits(seed: int, arguments: argparse.Namespace, known: str) -> Stream:
    """Five experts for two classes each, what is known of their start, and validation images."""
    start: Literal["known", "own"] = "own" if known == "other" else "known"
    case = streams.of_scenario("mnist-nc", seed, start, known == "adam", "validation", arguments.zoo)
    experts = list(case.experts)
    starts: list[State | None] = [case.start if known in ("known", "adam") else None] * len(experts)
    if known == "estimated":
        starts = [narrowing_weights(experts[1])]
        found = Starts()
        for expert in experts[:-1]:
            found.note(expert)
            starts.append(found.weights())
    return experts, starts, Samples.concat([part.test for part in case.scenario.experiences])


def others(stream: str) -> Callable[[int, argparse.Namespace], Stream]:
    """A stream of strangers."""

    def load(seed: int, arguments: argparse.Namespace) -> Stream:
        experts = strangers.experts(stream, seed, arguments.work)
        held_out = strangers.images(MNIST, train=True)[50_000:]
        if stream == "domains":
            clothes = strangers.images(FashionMNIST, train=True, first=10)[50_000:]
            held_out = Samples.concat([held_out, clothes])
        return experts, [None] * len(experts), held_out

    return load


STREAMS: dict[str, tuple[Sequence[int], Callable[[int, argparse.Namespace], Stream]]] = {
    "mnist-nc, start known": (range(5), partial(splits, known="known")),
    "mnist-nc, start estimated": (range(3), partial(splits, known="estimated")),
    "mnist-nc, start ignored": (range(3), partial(splits, known="ignored")),
    "mnist-nc, own starts": ((0,), partial(splits, known="other")),
    "mnist-nc, Adam": ((0,), partial(splits, known="adam")),
    "domains": ((0,), others("domains")),
    "overlapping": (range(2), others("overlapping")),
    "same classes": ((0,), others("same classes")),
}


class _Once:
    """Drawings that are made once for all rules."""

    def __init__(self, drawings: EvolvedDrawings) -> None:
        self._drawings = drawings
        self.pool = drawings.pool
        self.random = drawings.random
        self._evolved = dict[tuple[str, tuple[int, ...], bool], Samples]()

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext) -> Samples:
        key = expert.name, expert.classes, context.start is None
        if key not in self._evolved:
            self._evolved[key] = self._drawings(expert, size, seed, context)
        return self._evolved[key]


@torch.no_grad()
def ceiling(stream: Stream, steps: Sequence[Any], seed: int, drawings: Any, related: Any) -> float:
    """The accuracy of the mean of calibrated logits, in percent."""
    experts, starts, samples = stream
    samples = samples[::2]
    width = 1 + max(max(expert.classes) for expert in experts)
    total, count = torch.zeros(len(samples), width), torch.zeros(width)
    for expert, start in zip(experts, starts, strict=True):
        own = list(expert.classes)
        calibrated = expert
        if steps:
            calibrated = CommonScale(tuple(steps), tuple(steps), drawings, related)(expert, seed, start)
        rows = torch.arange(len(samples)).split(500)
        total[:, own] += torch.cat([_own(calibrated, samples.pixels(part)) for part in rows])
        count[own] += 1
    predicted = (total / count.clamp_min(1)).masked_fill(count == 0, -torch.inf).argmax(1)
    return round(100 * float((predicted == samples.labels).float().mean()), 2)


def _own(expert: Expert, pixels: Tensor) -> Tensor:
    return expert.own_logits(expert.logits(pixels))


def main() -> None:
    """Measure what is not measured yet, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/calibrations"), help="folder for experts and cells")
    parser.add_argument("--zoo", type=Path, default=Path("runs/zoo"), help="folder for the experts of the scenario")
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=list(STREAMS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    keep_freed_memory()
    for name in arguments.streams:
        seeds, load = STREAMS[name]
        for seed in seeds:
            path = arguments.work / f"{name}-{seed}.json"
            cells: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if set(cells) == set(RULES):
                continue
            stream = load(seed, arguments)
            narrow, wide = _Once(CommonScale().drawings), _Once(CommonScale().related_drawings)
            for rule, steps in RULES.items():
                related = wide if steps[: len(RELATED)] == RELATED else narrow
                cells[rule] = ceiling(stream, steps, seed, narrow, related)
            write_json(path, cells)
            print(name, seed, cells, flush=True)
    rows: dict[str, Any] = {}
    for name, (seeds, _) in STREAMS.items():
        paths = {str(seed): arguments.work / f"{name}-{seed}.json" for seed in seeds}
        found = {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in paths.items() if path.exists()}
        if found:
            by_rule = {rule: {seed: cells[rule] for seed, cells in found.items()} for rule in RULES}
            rows[name] = {rule: {"mean": round(mean(by.values()), 2), "seeds": by} for rule, by in by_rule.items()}
    result = {"commit": commit(), **attrs.asdict(environment(torch.device("cpu")))}
    write_json(RESULTS / "calibrations.json", {**result, "streams": rows})
    picture(arguments)


def picture(arguments: argparse.Namespace) -> None:
    """Random drawings in the first row, then one row for each class of five experts."""
    experts, starts, _ = splits(0, arguments, "known")
    drawings = EvolvedDrawings(steps=150, snapshots=1, copies=1)
    rows = [drawings.random(_COLUMNS, experts[0].image_shape, make_generator("cpu", 0, "picture"))]
    for expert, start in zip(experts, starts, strict=True):
        made = drawings(expert, 2 * _COLUMNS, 0, GenerationContext(start=start))
        rows += [made.images[made.labels == name] for name in expert.classes]
    save_image(torch.cat(rows), ROOT / "docs" / "_static" / "typicality.png", nrow=_COLUMNS, pad_value=0.5)


if __name__ == "__main__":
    main()
