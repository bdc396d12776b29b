"""What a recipe takes from its scenario."""

from __future__ import annotations

from exml import scenarios
from exml.combiners import MultiTask
from exml.core.activation import BATCH_NORM
from exml.protocols import Combiner


def combiner_for(scenario: str, seed: int, flat: Combiner) -> Combiner:
    """``flat``, or the heads of the tasks where the scenario has them."""
    tasks = scenarios.load(scenario, seed).tasks
    return flat if tasks is None else MultiTask(tasks, flat)


def has_batch_norm(scenario: str, seed: int) -> bool:
    """Whether the experts have batch-norm layers with running statistics, which say what their data were like."""
    module = scenarios.load(scenario, seed).make_module(0)
    return any(isinstance(layer, BATCH_NORM) and layer.track_running_stats for layer in module.modules())
