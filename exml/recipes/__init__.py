"""Complete strategies: the paper's, as in its text and in its code, and the default.

May import every room of a component, scenarios and learning.
"""

from exml.recipes.at_budget import at_budget
from exml.recipes.default import default
from exml.recipes.distillation import auxiliary, data_impression, model_inversion, noise, procedural, replay
from exml.recipes.named import RECIPES, for_scenario, recipe
from exml.recipes.paper import PAPER_STRATEGIES, paper, reference

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
