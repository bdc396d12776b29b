"""A strategy with less arithmetic."""

from __future__ import annotations

import math
from typing import Any

import attrs

from exml.core.components import rebuild
from exml.core.errors import SettingError
from exml.learning.strategy import Strategy

_LEAST = 10
"""Samples: the smallest buffer of Sec. 5.1, "Buffer size"."""


def at_budget(strategy: Strategy, budget: float) -> Strategy:
    r"""The same strategy with about ``budget`` times the arithmetic.

    An experience costs its distillation, steps times the mini-batch, and its inversion, images times steps:

    .. math:: cost \approx c_d \, n_{iter} + c_g \, \frac{N}{i} \, n_{gen}

    With a budget b, the distillation makes b · n_iter steps. The buffer N and the steps n_gen of an inversion have to
    share the factor, and each takes √b. All numbers are rounded, steps are at least 1, and a buffer keeps at least 10
    samples, the paper's smallest (Sec. 5.1), or as few as it had. What a generator without steps costs falls by √b
    only, as does a bank of ``views``: both are small beside the rest. Rates, weights and mini-batches stay.

    Args:
        strategy: of any kind. Scaled are, of ``training``, its ``iterations``; of the generator and the generators
            inside it, all ``iterations``; of the buffer, its ``size`` and ``per_experience``.
        budget: b, in (0, 1]; 1 gives the strategy itself.

    Raises:
        SettingError: for a budget outside (0, 1].

    >>> import exml
    >>> profile = exml.scenarios.load("digits-nc").profile()
    >>> strategy = exml.recipes.model_inversion(profile).build()
    >>> strategy.training.iterations, strategy.buffer.size, strategy.generator.iterations
    (800, 2000, 150)
    >>> strategy = at_budget(strategy, 0.25)
    >>> strategy.training.iterations, strategy.buffer.size, strategy.generator.iterations
    (200, 1000, 75)
    """
    if not 0 < budget <= 1:
        raise SettingError(expected="a budget > 0 and <= 1", got=repr(budget), remedy="give 1 for the whole of it")
    root = math.sqrt(budget)
    return attrs.evolve(
        strategy,
        training=_scaled(strategy.training, {"iterations"}, budget, 1),
        generator=_scaled(strategy.generator, {"iterations"}, root, 1),
        buffer=_scaled(strategy.buffer, {"size", "per_experience"}, root, _LEAST),
    )


def _scaled(part: Any, names: set[str], factor: float, least: int) -> Any:
    """A component with the numbers of these names scaled, in it and in the components that it holds."""

    def scale(component: Any) -> Any:
        numbers = {name: getattr(component, name) for name in names & attrs.fields_dict(type(component)).keys()}
        scaled = {name: min(n, max(least, round(n * factor))) for name, n in numbers.items() if isinstance(n, int)}
        return attrs.evolve(component, **scaled) if scaled else component

    return rebuild(part, scale)
