"""A recipe for a folder of experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exml.core.components import walk
from exml.core.errors import SettingError
from exml.experts import ExpertCard, ExpertProfile
from exml.learning.strategy import Strategy
from exml.recipes import recipe
from exml.scenarios import ScenarioSource


def stream_strategy(name: str, folder: Path | str, cards: Mapping[str, ExpertCard], /) -> Strategy:
    """A recipe by name, for the experts of a folder; more of them may follow.

    Args:
        name: one of :data:`exml.recipes.RECIPES`.
        folder: where the weights are.
        cards: of the experts, as :func:`exml.experts.read_cards` returns them.

    Raises:
        UnknownNameError: for another name.
        SettingError: the recipe needs the training data of the experts.
    """
    return recipe(name, ExpertProfile.from_cards(cards, folder, open_ended=True)).build()


def refuse_data(strategy: Strategy) -> None:
    """Refuse a strategy that looks at the data of a scenario.

    Raises:
        SettingError: it does.
    """
    if any(isinstance(part, ScenarioSource) for _, part in walk(strategy)):
        raise SettingError(
            expected="a strategy that does without the data of the experts",
            got="one that learns from a scenario's",
            remedy="choose another one of 'exml strategies', or give a file",
        )
