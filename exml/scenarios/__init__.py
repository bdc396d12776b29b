"""Scenarios (Sec. 5): what the experts of a stream are trained on, and what the student is asked in the end."""

import exml.scenarios.cifar10  # noqa: F401  # pyright: ignore[reportUnusedImport]  (it registers its scenarios)
from exml.scenarios.digits import digit_images
from exml.scenarios.mnist import mnist_images
from exml.scenarios.registry import Split, describe, load, names, register
from exml.scenarios.scenario import Experience, Scenario
from exml.scenarios.source import ScenarioSource
from exml.scenarios.splits import joint, multi_task, new_classes, new_instances

__all__ = [
    "Experience",
    "Scenario",
    "ScenarioSource",
    "Split",
    "describe",
    "digit_images",
    "joint",
    "load",
    "mnist_images",
    "multi_task",
    "names",
    "new_classes",
    "new_instances",
    "register",
]
