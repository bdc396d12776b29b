"""Strategies that are ready to use: the paper's, as its text and as its code has them, and our own."""

from exml.recipes._appendix import PAPER_STRATEGIES
from exml.recipes.at_budget import at_budget
from exml.recipes.default import default
from exml.recipes.distillation import auxiliary, data_impression, model_inversion, noise, procedural, replay
from exml.recipes.named import RECIPES, for_scenario, recipe
from exml.recipes.paper import paper
from exml.recipes.reference import reference

__all__ = [
    "PAPER_STRATEGIES",
    "RECIPES",
    "at_budget",
    "auxiliary",
    "data_impression",
    "default",
    "for_scenario",
    "model_inversion",
    "noise",
    "paper",
    "procedural",
    "recipe",
    "reference",
    "replay",
]
