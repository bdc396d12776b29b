"""Rates that nobody measured: those of a device of which only the speed is known."""

from __future__ import annotations

from exml.costs.rates import DistillationRates, GenerationRates, Line, Link, Rates
from exml.costs.sizes import Sizes
from exml.learning.strategy import Strategy

_ALONE = Link()


def at_speed(
    strategy: Strategy, sizes: Sizes, /, *, flops_per_second: float, step: float = 0.0, link: Link = _ALONE
) -> Rates:
    """Rates from the floating-point operations of each part: to compare models and image sizes, or to plan ahead.

    Only convolutions and matrix products take time here, beside a fixed time for each step of either loop.

    Args:
        strategy: what will be done.
        sizes: from :func:`count`, at the resolution and with the models that will be used.
        flops_per_second: what the device really does in such networks, a part of its peak, > 0.
        step: seconds that a step takes however small it is: launching kernels, Python.
        link: what connects the ranks.

    >>> import exml
    >>> from torch import nn
    >>> from exml.costs import CostModel, count
    >>> expert = exml.Expert(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (0, 1), (1, 8, 8))
    >>> strategy = exml.recipes.procedural(exml.ExpertProfile.from_experts([expert])).build()
    >>> sizes = count(strategy, expert, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    >>> fast, slow = (at_speed(strategy, sizes, flops_per_second=speed) for speed in (2e9, 1e9))
    >>> CostModel(strategy, slow, sizes).cost(5).seconds / CostModel(strategy, fast, sizes).cost(5).seconds
    2.0
    """

    def distillation(experience: int) -> DistillationRates:
        asked = sizes.view_flops(experience)
        each = sizes.training_flops + (0.0 if strategy.training.views else asked)
        return DistillationRates(0.0, asked / flops_per_second, Line(step, each / flops_per_second))

    generation = [
        GenerationRates(
            Line(0.0, part.call_flops / flops_per_second),
            Line(step, part.step_flops / flops_per_second) if part.step_flops else Line(),
        )
        for part in sizes.generation
    ]
    return Rates(tuple(generation), distillation(1), distillation(2), link=link)
