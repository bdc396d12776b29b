"""Recipes look at a scenario; here a folder of experts stands in for one."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch

from exml.core.components import walk
from exml.core.errors import ExpertError, SettingError
from exml.core.samples import Samples
from exml.experts import ExpertCard, ExpertTraining
from exml.learning.strategy import Strategy
from exml.recipes import recipe
from exml.runs.student_plan import classes_of
from exml.scenarios import Experience, Scenario, ScenarioSource, registry

NAME = "the stream"


def stream_strategy(name: str, cards: Mapping[str, ExpertCard], seed: int = 0) -> Strategy:
    """A recipe by name, for experts of whom only the cards are known.

    Args:
        name: one of :data:`exml.recipes.RECIPES`.
        cards: of the experts, as :func:`exml.experts.read_cards` gives them. The first says what the experts are like;
            all say whether there are tasks.
        seed: as for :func:`exml.recipes.recipe`.

    Raises:
        UnknownNameError: no such recipe, or an architecture that nobody registered.
        SettingError: it needs the data of the experts.
        ExpertError: the first expert's card has no architecture.
    """
    first, *_ = cards.values()
    if first.architecture is None:
        raise ExpertError(
            expected="an architecture on the first expert's card, which recipes look at",
            got="null",
            remedy="give a strategy file",
        )
    factories = registry._FACTORIES  # pyright: ignore[reportPrivateUsage]
    factories[NAME] = lambda seed, split: _scenario(cards)
    try:
        strategy = recipe(name, NAME, seed).build()
    finally:
        del factories[NAME]  # nobody else shall see it
    refuse_data(strategy)
    outputs = first.classes if first.outputs is None else first.outputs
    if strategy.student == "first-expert" and outputs != tuple(range(classes_of(cards))):
        strategy = attrs.evolve(strategy, student="continue")  # other outputs than the student's: it cannot be its copy
    return strategy


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


def _scenario(cards: Mapping[str, ExpertCard]) -> Scenario:
    first = next(iter(cards.values()))
    nothing = Samples.of(torch.zeros(0, *first.image_shape), torch.zeros(0, dtype=torch.int64))
    tasks: dict[int | None, set[int]] = {}
    for card in cards.values():
        tasks.setdefault(card.task, set()).update(card.classes)
    if set(tasks) != set(range(len(tasks))):  # not every expert has a task: together they are none
        tasks = {None: set().union(*tasks.values())}
    # Two at least: a stream is longer than it is now.
    pairs = list(tasks.items()) * (1 if len(tasks) > 1 else 2)
    experiences = [
        Experience(i, tuple(sorted(part)), task, nothing, nothing) for i, (task, part) in enumerate(pairs, 1)
    ]
    return Scenario(
        NAME,
        experiences,
        classes=classes_of(cards),
        image_shape=first.image_shape,
        mean=first.mean,
        std=first.std,
        architecture=first.architecture,
        training=ExpertTraining(),
    )
