"""How fast this device is at a strategy, from a moment of each of its loops."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import attrs
import torch
from torch import nn

from exml.buffers import Unbounded
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.rng import global_seed, make_generator
from exml.core.samples import Samples
from exml.core.shapes import Scalar
from exml.costs._trials import Enough, Trials
from exml.costs.leaves import batch_of, counts, iterations_of, leaves, shortened
from exml.costs.rates import DistillationRates, GenerationRates, Line, Link, Rates
from exml.generators import GaussianNoise
from exml.learning.learner import Learner
from exml.learning.strategy import Strategy
from exml.protocols import Generator

_ALONE = Link()


def measure(
    strategy: Strategy,
    expert: Expert,
    student: nn.Module,
    /,
    *,
    device: torch.device | str = "cpu",
    execution: Execution = EAGER,
    link: Link = _ALONE,
    seconds: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Run each loop of a strategy for a moment on copies of the models; changes neither model.

    A generator is called with few images and with more, up to those of one mini-batch, and one that iterates with few
    iterations and with more: two lines are put through these times. A step of distillation is timed at the batch size
    of the strategy and at a quarter of it. What a device does with noise takes as long as what it does with images;
    images that leave an inversion before its end (``stop_at``) are not foreseen, so that it takes less than this says.

    Networks are never compiled here, which takes longer than all of this: ``"always"`` and ``"auto"`` are timed as
    ``"capture"``.

    Args:
        strategy: what will be done.
        expert: one like all experts of the stream.
        student: that will learn from them.
        device: where.
        execution: of the loops.
        link: what will connect the ranks; it is not measured here.
        seconds: about how long to take; a loop whose shortest form takes longer takes what it needs.
        clock: in seconds; ``time.process_time`` is blind to what else the machine does, for loops of one thread.

    >>> import exml
    >>> expert = Expert(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (0, 1), (1, 8, 8))
    >>> strategy = exml.recipes.procedural(exml.ExpertProfile.from_experts([expert])).build()
    >>> rates = measure(strategy, expert, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), seconds=0.1)
    >>> rates.later.step(128) > 0
    True
    """
    with global_seed(0, "costs"):
        return rates_of(Trials.of(strategy, expert, student, device, timed_as(execution)), link, seconds, clock)


def timed_as(execution: Execution) -> Execution:
    """The execution that stands for another one in a measurement: without compilation."""
    return attrs.evolve(execution, compile="capture") if execution.compile in ("always", "auto") else execution


def rates_of(trials: Trials, link: Link, seconds: float, clock: Callable[[], float]) -> Rates:
    """The same, of copies that are at hand."""
    timer = _Timer(trials, clock)
    generator, share = trials.strategy.generator, trials.strategy.buffer.share(1)
    made = zip(leaves(generator), counts(generator, share, 1), counts(generator, share, 2), strict=True)
    parts = [(leaf, max(once, again, 2)) for leaf, once, again in made]
    generation = [_generation(timer, leaf, images, seconds / 3 / len(parts)) for leaf, images in parts]
    later = _distillation(timer, seconds / 3, previous=True)
    return Rates(
        generation=generation,
        first=_distillation(timer, seconds / 6, previous=False),
        later=later,
        experience=_experience(timer, later),
        update=_update(timer),
        link=link,
    )


@attrs.frozen(eq=False)
class _Timer:
    trials: Trials
    clock: Callable[[], float]

    @property
    def warm_up(self) -> int:
        """Steps that are not timed: the first fills caches, and one that is captured is so after three."""
        captured = self.trials.device.type == "cuda" and self.trials.execution.compile != "never"
        return 5 if captured else 1

    def now(self) -> float:
        if self.trials.device.type == "cuda":
            torch.cuda.synchronize(self.trials.device)
        return self.clock()

    def time(self, run: Callable[[], object]) -> float:
        began = self.now()
        run()
        return self.now() - began


def _generation(timer: _Timer, leaf: Generator, images: int, budget: float) -> GenerationRates:
    """Two lines, through few images and as many of one mini-batch as the budget allows; medians of a few rounds."""
    most, total = max(batch_of(leaf, images), 2), iterations_of(leaf)
    few = min(timer.warm_up, total)
    count = min(4, most // 2)

    def call(images: int, iterations: int) -> float:
        return timer.time(lambda: timer.trials.generate(shortened(leaf, iterations), images))

    call(count, few)
    small, taken = count, call(count, few)
    while count < most and (count == small or taken < budget / 20):
        small, count = count, min(4 * count, most)
        taken = call(count, few)
    more = few + int(min(max(budget / 10 * few / max(taken, 1e-6), 2), total - few))
    rounds: list[list[float]] = []
    began = timer.now()
    while len(rounds) < 2 or (len(rounds) < 9 and timer.now() - began < budget):
        rounds.append([call(n, steps) for n in (small, count) for steps in (few, more)])
    # One iteration only: nothing tells it from the rest of the call, which is then all there is.
    between = max(more - few, 1)
    steps = [max(statistics.median(row[at + 1] - row[at] for row in rounds), 0.0) / between for at in (0, 2)]
    steps = steps if more > few else [0.0, 0.0]
    calls = [max(statistics.median(row[2 * at] for row in rounds) - few * steps[at], 0.0) for at in (0, 1)]
    return GenerationRates(
        Line.through(small, calls[0], count, calls[1]), Line.through(small, steps[0], count, steps[1])
    )


def _distillation(timer: _Timer, budget: float, *, previous: bool) -> DistillationRates:
    """The whole mini-batch and a quarter of it; where that takes too long, a quarter and a quarter of that."""
    training = timer.trials.strategy.training
    views, large = min(training.views, 1), training.batch_size
    small = max(large // 4, min(large, 2))
    few = timer.trials.samples(2)
    setup, at_small = _steps(timer, budget / 3, few, small, views, previous=previous)
    if small < large:
        if (timer.warm_up + 3) * at_small * large / small > 2 * budget and small >= 8:
            large, small = small, small // 4
            at_large = at_small
            setup, at_small = _steps(timer, budget / 3, few, small, views, previous=previous)
        else:
            setup, at_large = _steps(timer, budget / 3, few, large, views, previous=previous)
        line = Line.through(small, at_small, large, at_large)
    else:
        line = Line(0.0, at_small / small)
    view = 0.0
    if training.views:
        memory = timer.trials.samples(128)
        whole, _ = _steps(timer, 0.0, memory, small, views, previous=previous)
        view = max(whole - setup, 0.0) / (len(memory) - len(few))
    return DistillationRates(setup, view, line)


def _steps(
    timer: _Timer, budget: float, memory: Samples, batch: int, views: int, *, previous: bool
) -> tuple[float, float]:
    """Seconds before the first step, and of a step: the median of those after the warm-up."""
    times = [timer.now()]

    def after_step(_done: int, _loss: Scalar) -> None:
        times.append(timer.now())
        if len(times) > timer.warm_up + 3 and times[-1] - times[0] > budget:
            raise Enough

    timer.trials.distil(memory, timer.warm_up + 60, batch=batch, views=views, previous=previous, after_step=after_step)
    spans = [after - before for before, after in itertools.pairwise(times)]
    step = statistics.median(spans[timer.warm_up :])
    return max(spans[0] - step, 0.0), step


def _experience(timer: _Timer, later: DistillationRates) -> float:
    """The second experience of a learner that does as little as it can, without what is counted elsewhere."""
    trials = timer.trials
    training = attrs.evolve(trials.strategy.training, iterations=1, batch_size=2, views=0)
    least = attrs.evolve(
        trials.strategy,
        generator=GaussianNoise(),
        prior=None,
        buffer=Unbounded(2),
        training=training,
        student="continue",
    )
    learner = Learner(least, trials.student, execution=trials.execution)
    learner.learn(trials.expert)
    began = timer.now()
    learner.learn(trials.expert)
    return max(timer.now() - began - later.setup - later.step(2), 0.0)


def _update(timer: _Timer) -> float:
    """Seconds for each image, of the buffer's second update."""
    policy, trials = timer.trials.strategy.buffer, timer.trials
    count = min(policy.share(1), 1024)
    memory, new = trials.samples(count), trials.samples(count).of_experience(2)
    draws = make_generator(trials.device, 0, "costs")
    return min(timer.time(lambda: policy(memory, new, draws)) for _ in range(3)) / (2 * count)
