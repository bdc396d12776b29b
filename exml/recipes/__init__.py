"""Strategies that are ready to use: the paper's and our own."""

from exml.recipes.distillation import auxiliary, data_impression, model_inversion, noise, procedural, replay
from exml.recipes.named import RECIPES, recipe
from exml.recipes.ours import exml

__all__ = [
    "RECIPES",
    "auxiliary",
    "data_impression",
    "exml",
    "model_inversion",
    "noise",
    "procedural",
    "recipe",
    "replay",
]
