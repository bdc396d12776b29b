"""Scenarios (Sec. 5): the data that the experts of a stream are trained on, and that the student is tested on.

The paper's scenarios by name, and splits of any labeled dataset. May import datasets, experts, models and core.
"""

from exml.scenarios.cifar10 import cifar10_joint, cifar10_mt, cifar10_nc
from exml.scenarios.core50 import core50_joint, core50_nc, core50_ni
from exml.scenarios.digits import digit_images
from exml.scenarios.mnist import mnist_images, mnist_joint, mnist_nc
from exml.scenarios.registry import Split, describe, load, names, register
from exml.scenarios.scenario import Experience, Scenario
from exml.scenarios.source import ScenarioSource
from exml.scenarios.splits import ExpertSetup, joint, multi_task, new_classes, new_instances

__all__ = [
    "Experience",
    "ExpertSetup",
    "Scenario",
    "ScenarioSource",
    "Split",
    "cifar10_joint",
    "cifar10_mt",
    "cifar10_nc",
    "core50_joint",
    "core50_nc",
    "core50_ni",
    "describe",
    "digit_images",
    "joint",
    "load",
    "mnist_images",
    "mnist_joint",
    "mnist_nc",
    "multi_task",
    "names",
    "new_classes",
    "new_instances",
    "register",
]
