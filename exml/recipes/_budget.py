"""The budget that all recipes for the embedded scenarios share, so that only their parts differ."""

from __future__ import annotations

from exml.buffers import Cumulative
from exml.engine import Training
from exml.learning.builder import Given, Missing, StrategyBuilder


def budget(views: int = 0) -> StrategyBuilder[Missing, Missing, Given, Missing, Given]:
    """A buffer of 2,000 samples, and 800 steps of 128 samples in each experience: a minute or two on a CPU.

    Adam with one cycle learns more in so few steps than the paper's SGD does; the paper takes 20,000 to 50,000
    (appendix B).

    Args:
        views: as for :class:`exml.engine.Training`.
    """
    return (
        StrategyBuilder()
        .buffer(Cumulative(2_000))
        .training(
            Training(
                iterations=800, batch_size=128, learning_rate=0.01, optimizer="adam", schedule="one-cycle", views=views
            )
        )
    )
