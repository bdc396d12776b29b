"""Scenarios and strategies so small that a whole run takes a moment."""

import json
import re
from functools import partial
from pathlib import Path

import torch

import exml
from exml import runs, scenarios
from exml.combiners import ProductOfExperts
from exml.engine import Training
from exml.experts import ExpertTraining
from exml.generators import GaussianNoise, ModelInversion, Replay
from exml.losses import MeanSquaredError
from exml.normalizers import CenterLogits

CLASSES = 4
MAKERS = {
    "tiny-nc": (scenarios.new_classes, 2),
    "tiny-mt": (scenarios.multi_task, 2),
    "tiny-ni": (scenarios.new_instances, 2),
    "tiny-joint": (scenarios.joint, None),
}


def blobs(each, seed):
    """Images with one bright quarter, which is the class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    images = 0.4 * torch.rand(len(labels), 1, 4, 4, generator=draws)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 2 * (label // 2), 2 * (label % 2)
        image[:, top : top + 2, left : left + 2] += 0.4
    return exml.Samples.of(images, labels)


def make(name, seed, split):
    maker, experiences = MAKERS[name]
    test = blobs(5, {"test": 1, "validation": 2}[split])
    # An uneven test set: Eq. 2 weighs experiences by their images.
    test = test[torch.cat([torch.arange(len(test)), torch.tensor([0, 1, 2])])]
    settings = {} if experiences is None else {"experiences": experiences, "seed": seed}
    setup = scenarios.ExpertSetup(training=ExpertTraining(epochs=2, batch_size=8, learning_rate=0.05))
    return maker(blobs(12, 0), test, name=name, setup=setup, **settings)


FACTORIES = {name: partial(make, name) for name in MAKERS}
"""Tests register these with :mod:`exml.scenarios`."""


def register(monkeypatch):
    """Make the tiny scenarios known."""
    for name, factory in FACTORIES.items():
        monkeypatch.setitem(scenarios.registry._FACTORIES, name, factory)


def strategy(**changes):
    parts = {
        "generator": GaussianNoise(),
        "combiner": ProductOfExperts(),
        "buffer": exml.buffers.Cumulative(16),
        "loss": MeanSquaredError(),
        "training": Training(iterations=8, batch_size=8, learning_rate=0.003, optimizer="adam"),
        "normalizer": CenterLogits(),
    }
    return exml.Strategy(**{**parts, **changes})


def inversion(**changes):
    return strategy(generator=ModelInversion(iterations=6, learning_rate=0.1, batch_size=8), **changes)


def replay(scenario, seed=0):
    return strategy(generator=Replay(scenarios.ScenarioSource(scenario, seed)))


def run(name, strategies, out, *, split="test", experts=None, baselines=True, observers=(), resume=False, **settings):
    """A run over a scenario."""
    source = runs.ScenarioExperts(name, split, experts, baselines)
    settings = runs.RunSettings(**settings)
    return runs.run(source, strategies, out, settings=settings, resume=resume, observers=observers)


def no_figures(monkeypatch):
    """Figures and the report take longer than everything else in a tiny run."""
    monkeypatch.setattr("exml.runs._stages.agreement", lambda *_, **__: None)
    monkeypatch.setattr("exml.runs._stages.save_figure", lambda _figure, path: Path(path).write_bytes(b""))
    for figure in ("accuracy_figure", "samples_figure"):
        monkeypatch.setattr(f"exml.runs._stages.{figure}", lambda *_: None)


def files_of(folder):
    """The paths of all files, with ``*`` for the checksum in a name."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return {re.sub("-[0-9a-f]{16}", "-*", str(path)) for path in paths}


def measured(folder):
    """A result without its seconds, which must not depend on kills."""
    return forget_seconds(json.loads((Path(folder) / "result.json").read_text()))


def forget_seconds(plain):
    if isinstance(plain, dict):
        return {key: forget_seconds(part) for key, part in plain.items() if key not in ("seconds", "forecast")}
    return [forget_seconds(part) for part in plain] if isinstance(plain, list) else plain
