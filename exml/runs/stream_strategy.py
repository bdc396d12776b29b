"""A recipe for a folder of experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exml.core.errors import SettingError
from exml.experts import ExpertCard, ExpertProfile
from exml.learning.strategy import Strategy
from exml.recipes import recipe


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
    if _mentions(strategy.to_dict(), "scenario-source"):
        raise SettingError(
            expected="a strategy that does without the data of the experts",
            got="one that learns from a scenario's",
            remedy="choose another one of 'exml strategies', or give a file",
        )


def _mentions(plain: Any, kind: str) -> bool:
    if isinstance(plain, Mapping):
        return plain.get("kind") == kind or any(_mentions(part, kind) for part in plain.values())
    return isinstance(plain, list) and any(_mentions(part, kind) for part in plain)
