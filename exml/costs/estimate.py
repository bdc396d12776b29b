"""What a strategy will cost here: the model, with rates and sizes found out on the spot."""

from __future__ import annotations

import time

import torch
from torch import nn

from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.rng import global_seed
from exml.costs._trials import Trials
from exml.costs.cost import Cost
from exml.costs.measure import rates_of, timed_as
from exml.costs.model import CostModel
from exml.costs.rates import Link
from exml.costs.sizes import sizes_of
from exml.learning.strategy import Strategy

SHARED_MEMORY = Link(latency=2e-4, bytes_per_second=1e9)
"""Two ranks of one machine, in round numbers; see ``benchmarks/costs.py``."""


def estimate(
    strategy: Strategy,
    expert: Expert,
    student: nn.Module,
    *,
    experts: int,
    device: torch.device | str = "cpu",
    ranks: int = 1,
    execution: Execution = EAGER,
) -> Cost:
    """Seconds and bytes of a stream of experts, from a second or two of measurement on this device.

    Made of :func:`count`, :func:`measure` and :class:`CostModel`. Neither model is changed. What connects the ranks is
    not measured but taken to be :data:`SHARED_MEMORY`; for another link give its rates to :class:`CostModel` yourself.

    Args:
        strategy: what will be done.
        expert: one like all experts of the stream.
        student: that will learn from them.
        experts: how many there are.
        device: where student, buffer and expert will live.
        ranks: how many processes share the work, each on a device like this one.
        execution: of the hot loops.

    Raises:
        BufferSizeError: when the buffer is too small for a stream of this length.
        ExmlError: what a :class:`exml.Learner` raises of models that do not fit.

    >>> import exml
    >>> head = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> expert = Expert(head, classes=(0, 1), image_shape=(1, 8, 8))
    >>> strategy = exml.recipes.noise(exml.ExpertProfile.from_experts([expert])).build()
    >>> cost = estimate(strategy, expert, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), experts=5)
    >>> cost.experts, cost.images, cost.seconds > cost.of(1) > 0
    (5, 4566, True)
    """
    strategy.buffer.share(experts)
    with global_seed(0, "costs"):
        trials = Trials.of(strategy, expert, student, device, timed_as(execution))
        sizes = sizes_of(trials)
        rates = rates_of(trials, SHARED_MEMORY, 1.5, time.perf_counter)
    return CostModel(strategy, rates, sizes, ranks).cost(experts)
