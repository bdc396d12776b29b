"""What a recipe takes from its scenario."""

from __future__ import annotations

from exml import scenarios
from exml._types import Combiner
from exml.losses import MultiTask


def combiner_for(scenario: str, seed: int, flat: Combiner) -> Combiner:
    """``flat``, or the heads of the tasks where the scenario has them."""
    tasks = scenarios.load(scenario, seed).tasks
    return flat if tasks is None else MultiTask(tasks, flat)
