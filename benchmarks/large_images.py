"""Large photographs from end to end: a MobileNetV2 at 128x128 on 90 real frames of CORe50, one process, one thread.

    EXML_DATA=FOLDER uv run python benchmarks/large_images.py

One small stream of new instances has three groups of sessions as its experiences; one of new classes shares out the ten
categories. Sessions 3 and 7 are for the test, as published. Experts and student start from weights for ImageNet. On
each stream, the student learns three times: from inverted images with batch-norm statistics, from 1,000 photographs of
ImageNet, and by the default recipe with a smaller buffer: from drawings, continuing from the first expert.

Budgets are tiny. The question is whether everything works together at this size, and how much time and memory it takes,
not how good the student gets. Stages are measured in CPU seconds, which depend little on other load, and in wall
seconds; memory is the peak until the end of a stage. Accuracies are shares of 20 test frames, from one run.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit

import exml
from exml import scenarios
from exml.augmentation import Augmentation
from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage
from exml.buffers import Cumulative
from exml.combiners import ByClass, SideBySide
from exml.core.files import write_json
from exml.datasets import core50, dataset_folder
from exml.datasets.imagenet import MEAN, STD
from exml.engine import keep_freed_memory
from exml.experts import ExpertTraining
from exml.generators import AuxiliaryData, DatasetImages, ModelInversion, ProceduralImages
from exml.learning import events
from exml.learning.strategy import Strategy
from exml.losses import Distillation, MeanSquaredError
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.runs.environment import environment
from exml.runs.evaluation import evaluate_baseline, evaluate_student
from exml.scenarios import Scenario

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "large_images_cpu.json"
GROUPS = {1: 0, 2: 0, 4: 0, 5: 1, 6: 1, 8: 2, 9: 2}
"""The experience of each training session, for new instances."""
SHARES = (4, 3, 3)
"""Categories of each experience, for new classes."""
TRAINING = ExpertTraining(epochs=6, batch_size=8, learning_rate=0.01)
INVERSION_STEPS, BUFFER, STEPS, BATCH, DRAWINGS = 15, 12, 15, 8, 240
BASELINES = {
    "parameter average": ParameterAverage(),
    "ensemble of logits": EnsembleAverage(),
    "ensemble of probabilities": EnsembleAverage("probabilities"),
    "minimum entropy": MinEntropy(),
    "oracle": Oracle(),
}


def streams() -> dict[str, Scenario]:
    """The two scenarios on the same frames."""
    parts = core50(dataset_folder() / "core50_sample", categories=True)
    train, test = parts["train"], parts["test"]
    architecture = {"name": "mobilenet-v2", "settings": {"classes": 10}}
    setup = scenarios.ExpertSetup(architecture, TRAINING, (MEAN, STD), pretrained=True)
    groups = torch.tensor([GROUPS[session] for session in train.experiences.tolist()])
    order = tuple(range(10))  # category 8 is in no test frame, but comes with others that are
    made = (
        scenarios.new_instances(train, test, groups=groups, name="new instances", setup=setup),
        scenarios.new_classes(train, test, classes_each=SHARES, order=order, name="new classes", setup=setup),
    )
    return {scenario.name: scenario for scenario in made}


def strategies() -> dict[str, Strategy]:
    """Sec. 3 with two sources of images, and ours."""
    base = (
        exml.StrategyBuilder()
        .augmentation(Augmentation.core50())
        .normalizer(CenterLogits())
        .combiner(ByClass())
        .buffer(Cumulative(BUFFER))
        .loss(Distillation(cross_entropy=1.0))
        .training(exml.Training(iterations=STEPS, batch_size=BATCH, learning_rate=0.01))
    )
    inversion = ModelInversion(iterations=INVERSION_STEPS, learning_rate=0.1, temperature=2.0, batch_size=BATCH)
    priors = (L2Norm(1e-4), GaussianBlur(0.01), BatchNormStatistics(1.0))
    training = exml.Training(
        iterations=STEPS, batch_size=BATCH, learning_rate=0.0005, optimizer="adam", schedule="one-cycle"
    )
    ours = (
        base.generator(ProceduralImages(polarity="any", full_contrast=True))
        .augmentation(Augmentation(shift=3, rotation=15.0, flip=0.5))
        .combiner(SideBySide(calibration=0.4, scale="previous"))
        .buffer(Cumulative(DRAWINGS))
        .loss(MeanSquaredError("seen"))
        .student("first-expert")
        .training(attrs.evolve(training, views=2, clip_norm=1.0, ridge=0.01, batch_norm="running"))
    )
    return {
        "model inversion": base.generator(inversion).priors(*priors).build(),
        "auxiliary data": base.generator(AuxiliaryData(DatasetImages("imagenet", size=128))).build(),
        "drawings": ours.build(),
    }


@attrs.define
class Stages:
    """What every stage took, in order; printed as it goes."""

    rows: list[dict[str, Any]] = attrs.field(factory=list)

    @contextmanager
    def __call__(self, stream: str, stage: str) -> Generator[None]:
        """Measure the block."""
        clock, processor = time.perf_counter(), time.process_time()
        yield
        row = {
            "stream": stream,
            "stage": stage,
            "cpu_seconds": round(time.process_time() - processor, 2),
            "clock_seconds": round(time.perf_counter() - clock, 2),
            "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        self.rows.append(row)
        print(row, flush=True)


class Clock:
    """An observer that keeps the processor's seconds of generation and of distillation apart."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"generation": 0.0, "distillation": 0.0}
        self._since = time.process_time()

    def __call__(self, event: events.Event, /) -> None:
        """See :class:`exml.learning.events.Observer`."""
        now = time.process_time()
        match event:
            case events.BufferUpdated():
                self.seconds["generation"] += now - self._since
            case events.ExperienceFinished():
                self.seconds["distillation"] += now - self._since
            case events.ExperienceStarted():
                pass
            case _:
                return
        self._since = now


def measure(stages: Stages) -> dict[str, Any]:
    """Both streams, from the frames to the accuracies."""
    accuracies: dict[str, Any] = {}
    with stages("both", "read and decode the frames"):
        loaded = streams()
    for name, scenario in loaded.items():
        with stages(name, "train 3 experts"):
            experts = scenario.train_experts(seed=0)
        found: dict[str, Any] = {}
        with stages(name, "ask the experts"), torch.no_grad():
            found["experts on their training images"] = [
                round(float((expert.predicted_ids(part.train.pixels()) == part.train.labels).float().mean()), 3)
                for expert, part in zip(experts, scenario.experiences, strict=True)
            ]
            for title, baseline in BASELINES.items():
                if not (title == "oracle" and scenario.shared_test):
                    found[title] = round(evaluate_baseline(baseline, experts, scenario).stream, 3)
        for title, strategy in strategies().items():
            clock = Clock()
            learner = exml.Learner(strategy, scenario.make_student(0), seed=0, observers=[clock])
            with stages(name, f"learn from {title}"):
                learner.learn_stream(experts)
            stages.rows[-1]["of_which"] = {key: round(value, 2) for key, value in clock.seconds.items()}
            with stages(name, f"ask the student of {title}"):
                found[f"student, {title}"] = round(evaluate_student(learner.student, scenario).stream, 3)
        accuracies[name] = found
        print(found, flush=True)
    return accuracies


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    keep_freed_memory()
    stages = Stages()
    accuracies = measure(stages)
    frames = {part: len(samples) for part, samples in core50(dataset_folder() / "core50_sample").items()}
    result = {
        "about": __doc__,
        "environment": attrs.asdict(environment(torch.device("cpu"))),
        "commit": commit("benchmarks/large_images.py"),
        "n": {"runs": 1, "frames": frames},
        "strategies": {name: strategy.to_dict() for name, strategy in strategies().items()},
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in stages.rows), 1),
        "peak_resident_mib": max(row["peak_resident_mib"] for row in stages.rows),
        "accuracy": accuracies,
        "stages": stages.rows,
    }
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
