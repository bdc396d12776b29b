"""Our own strategy."""

from __future__ import annotations

from exml.buffers import Cumulative
from exml.builder import CompleteBuilder, StrategyBuilder
from exml.generators import ProceduralImages
from exml.losses import CenterLogits, MeanSquaredError, ProductOfExperts
from exml.recipes._scenarios import combiner_for


def exml(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """Match the product of the experts' functions on procedural images: no data, no inversion.

    It departs from the paper in three ways. Images are cheap and diverse instead of optimised: what an expert of two
    classes is sure of says little (Sec. 5.1), and functions are matched best where inputs vary. Targets are the sums of
    the teachers' centred full-width logits, since what an expert's never-trained units say is evidence too. And the
    cross-entropy is left out, since the expert's answer to a random image is a function value, not a label.

    Args:
        scenario: where it has task labels, the targets are the heads of the tasks instead.
        seed: of the scenario, which decides what the tasks are.
    """
    return (
        StrategyBuilder()
        .generator(ProceduralImages())
        .normalizer(CenterLogits())
        .combiner(combiner_for(scenario, seed, ProductOfExperts()))
        .buffer(Cumulative(10_000))
        .loss(MeanSquaredError())
        .training(iterations=1_500, batch_size=128, learning_rate=0.003, optimizer="adam", schedule="one-cycle")
    )
