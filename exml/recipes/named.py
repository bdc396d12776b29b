"""Recipes by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from exml import scenarios
from exml.core.errors import UnknownNameError, did_you_mean
from exml.experts import ExpertProfile
from exml.learning.builder import CompleteBuilder
from exml.protocols import Source
from exml.recipes.default import default
from exml.recipes.distillation import auxiliary, data_impression, model_inversion, noise, procedural, replay, required
from exml.recipes.paper import PAPER_STRATEGIES, paper, reference

_FROM_PROFILE: Mapping[str, Callable[[ExpertProfile], CompleteBuilder]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (model_inversion, data_impression, auxiliary, procedural, noise)
}
RECIPES: Mapping[str, str] = MappingProxyType(
    {
        "exml": "The default strategy, chosen from the metadata of the experts.",
        "model-inversion": "Model Inversion ED (Sec. 4), with the priors of appendix B.1.1.",
        "data-impression": "Data Impression ED (Sec. 4), with the priors of appendix B.1.2.",
        "auxiliary": "Aux. Data ED (Sec. 4) on patches of two photographs.",
        "procedural": "The paper's distillation on procedural images.",
        "replay": "Replay ED (Sec. 5): the paper's distillation on the experts' own training data.",
        "noise": "The paper's distillation on Gaussian noise.",
        **{f"paper-{name}": f"{title}, as in the paper's text." for name, title in PAPER_STRATEGIES.items()},
        **{f"reference-{name}": f"{title}, as in the paper's code." for name, title in PAPER_STRATEGIES.items()},
    }
)
"""Descriptions of the recipes, by name."""


def recipe(
    name: str, profile: ExpertProfile, *, real_data: Source | None = None, student: nn.Module | None = None
) -> CompleteBuilder:
    """A builder filled by the recipe of this name. Change any part before ``.build()``.

    Args:
        name: one of :data:`RECIPES`.
        profile: of the experts.
        real_data: the experts' training data, for recipes with replay.
        student: see :func:`default`.

    Raises:
        UnknownNameError: for another name.
        SettingError: when the recipe does not fit the profile, or needs ``real_data`` and it is None.

    >>> import exml
    >>> from exml.recipes import recipe
    >>> type(recipe("exml", exml.scenarios.load("digits-nc").profile()).build().generator).__name__
    'DataImpression'
    """
    if name not in RECIPES:
        raise unknown_recipe(name)
    if name in _FROM_PROFILE:
        return _FROM_PROFILE[name](profile)
    if name == "exml":
        return default(profile, student=student)
    if name == "replay":
        return replay(profile, required(real_data))
    family, _, strategy = name.partition("-")
    return (paper if family == "paper" else reference)(profile, strategy, real_data=real_data)


def unknown_recipe(name: str, /) -> UnknownNameError:
    """The error for a name that is not in :data:`RECIPES`."""
    remedy = did_you_mean(name, RECIPES, "choose one, or give a YAML file")
    return UnknownNameError(expected=f"one of {', '.join(RECIPES)}", got=repr(name), remedy=remedy)


def for_scenario(name: str, scenario: str, seed: int = 0) -> CompleteBuilder:
    """The recipe of this name for the experts of a scenario. Recipes with replay draw from its training data.

    Names and errors are those of :func:`recipe` and :func:`exml.scenarios.load`.

    >>> from exml.recipes import for_scenario
    >>> for_scenario("replay", "digits-nc", 3).build().generator
    Replay(source=ScenarioSource(name='digits-nc', seed=3))
    """
    profile = scenarios.load(scenario, seed).profile()
    return recipe(name, profile, real_data=scenarios.ScenarioSource(scenario, seed))
