"""Scenarios (Sec. 5): the data that the experts of a stream are trained on, and that the student is tested on.

The paper's scenarios by name, and splits of any labeled dataset. May import datasets, experts, models and core.
"""

from exml.scenarios.digits import digit_images
from exml.scenarios.example import write_example
from exml.scenarios.paper import mnist_images
from exml.scenarios.registry import ScenarioSource, Split, describe, load, names, register
from exml.scenarios.scenario import Experience, Scenario
from exml.scenarios.splits import ExpertSetup, joint, multi_task, new_classes, new_instances

__all__ = [
    "Experience",
    "ExpertSetup",
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
    "write_example",
]
