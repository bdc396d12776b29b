"""Recipes by name, as the command line offers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from exml.core.errors import UnknownNameError
from exml.learning.builder import CompleteBuilder
from exml.recipes._appendix import PAPER_STRATEGIES
from exml.recipes.distillation import auxiliary, data_impression, model_inversion, noise, procedural, replay
from exml.recipes.ours import exml
from exml.recipes.paper import paper
from exml.recipes.reference import reference

Maker: TypeAlias = Callable[[str, int], CompleteBuilder]

_CALLED = {
    "model-inversion": "Model Inversion ED",
    "data-impression": "Data Impression ED",
    "auxiliary": "Aux. Data ED",
    "replay": "Replay ED",
    "noise": "Gaussian-noise ED",
}


def _cells() -> dict[str, Maker]:
    """The paper's strategies by name, twice."""

    def cell(make: Callable[[str, str, int], CompleteBuilder], strategy: str, whose: str) -> Maker:
        def build(scenario: str, seed: int = 0) -> CompleteBuilder:
            return make(scenario, strategy, seed)

        build.__doc__ = f"{_CALLED[strategy]} as {whose} has it, for the paper's eight scenarios."
        return build

    made = {f"paper-{strategy}": cell(paper, strategy, "the paper's text") for strategy in PAPER_STRATEGIES}
    return made | {f"reference-{name}": cell(reference, name, "the paper's code") for name in PAPER_STRATEGIES}


RECIPES: Mapping[str, Maker] = MappingProxyType(
    {
        "exml": exml,
        "model-inversion": model_inversion,
        "data-impression": data_impression,
        "auxiliary": auxiliary,
        "procedural": procedural,
        "replay": replay,
        "noise": noise,
        **_cells(),
    }
)
"""Each makes a builder for a scenario, given by its name and its seed.

Those that begin with ``paper-`` and ``reference-`` know the paper's scenarios alone."""


def recipe(name: str, scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """A builder, filled by a recipe; change what you like before ``.build()``.

    Args:
        name: one of :data:`RECIPES`.
        scenario: the scenario's name, for the recipes that depend on it (task labels, real data).
        seed: the scenario's seed.

    Raises:
        UnknownNameError: listing the recipes there are.

    >>> type(recipe("exml").build().generator).__name__
    'ModelInversion'
    """
    if name not in RECIPES:
        raise UnknownNameError(
            expected=f"one of {', '.join(RECIPES)}", got=repr(name), remedy="choose one, or give a YAML file"
        )
    return RECIPES[name](scenario, seed)
