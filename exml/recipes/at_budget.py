"""Scales the cost of a strategy."""

from __future__ import annotations

import math
from typing import Any

import attrs

from exml.core.components import rebuild
from exml.core.errors import SettingError
from exml.learning.strategy import Strategy


def at_budget(strategy: Strategy, budget: float) -> Strategy:
    r"""The same strategy with about ``budget`` times the arithmetic.

    The cost of an experience is that of its distillation and that of its inversion:

    .. math:: cost \approx c_d \, n_{iter} + c_g \, \frac{N}{i} \, n_{gen}

    With a budget b, the distillation makes b · n_iter steps. The buffer N and the steps n_gen of an inversion are each
    multiplied by √b. Numbers are rounded; steps stay at least 1, and a buffer keeps at least 10 samples, the smallest
    of Sec. 5.1, unless it was smaller. The cost of a generator without steps, or of a bank of ``views``, falls by √b
    only.

    Args:
        strategy: the ``iterations`` of its training, its generator and nested generators are scaled, and the ``size``
            and ``per_experience`` of its buffer.
        budget: b, in (0, 1]; 1 returns an equal strategy.

    Raises:
        SettingError: for a budget outside (0, 1].

    >>> from exml.recipes import at_budget
    >>> import exml
    >>> strategy = exml.recipes.model_inversion(exml.scenarios.load("digits-nc").profile()).build()
    >>> strategy.training.iterations, strategy.buffer.size, strategy.generator.iterations
    (800, 2000, 150)
    >>> strategy = at_budget(strategy, 0.25)
    >>> strategy.training.iterations, strategy.buffer.size, strategy.generator.iterations
    (200, 1000, 75)
    """
    if not 0 < budget <= 1:
        raise SettingError(expected="a budget > 0 and <= 1", got=repr(budget), remedy="give 1 for all of the strategy")
    root = math.sqrt(budget)
    return attrs.evolve(
        strategy,
        training=_scaled(strategy.training, {"iterations"}, budget, 1),
        generator=_scaled(strategy.generator, {"iterations"}, root, 1),
        buffer=_scaled(strategy.buffer, {"size", "per_experience"}, root, 10),
    )


def _scaled(part: Any, names: set[str], factor: float, least: int) -> Any:
    def scale(component: Any) -> Any:
        numbers = {name: getattr(component, name) for name in names & attrs.fields_dict(type(component)).keys()}
        scaled = {name: min(n, max(least, round(n * factor))) for name, n in numbers.items() if isinstance(n, int)}
        return attrs.evolve(component, **scaled) if scaled else component

    return rebuild(part, scale)
