"""Forecast the time of a strategy on this machine: time a few real steps of each loop, and extrapolate."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.components import rebuild, walk
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import global_seed
from exml.core.samples import Samples
from exml.engine import DistillationContext, PreviousStudent, Teachers, distill, store_logits
from exml.learning.preflight import check_student, rehearse, share_of, updated
from exml.learning.strategy import Strategy
from exml.protocols import Calibration, GenerationContext

BUDGET = 0.3
"""Seconds per measurement; one step is measured even if it takes longer."""
FEW, STEPS = 8, 3
"""Images of the smallest measurement; steps of distillation that are timed after the first."""
MOST = 20
"""Iterations of the shortest generation that is timed."""
SIMULATED = 50
"""Experiences for which the buffer policy is simulated; the buffer size is constant after them."""


@component
@attrs.frozen
class Forecast:
    """Expected seconds of a strategy over the stream, without training and reading experts, checkpoints and evaluation.

    >>> from exml.runs import Forecast
    >>> print(Forecast(30.0, 28.4))
    58 s: generation 30 s, distillation 28 s
    """

    generation: float
    distillation: float

    @property
    def seconds(self) -> float:
        """Both phases together."""
        return self.generation + self.distillation

    def __str__(self) -> str:
        parts = f"generation {duration(self.generation)}, distillation {duration(self.distillation)}"
        return f"{duration(self.seconds)}: {parts}"


def duration(seconds: float) -> str:
    """Seconds as a short text.

    >>> from exml.runs import duration
    >>> duration(4.21), duration(75), duration(8000), duration(300_000)
    ('4.2 s', '75 s', '2 h 13 min', '3 d 11 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def forecast(
    strategy: Strategy,
    expert: Expert,
    student: nn.Module,
    /,
    *,
    experts: int,
    execution: Execution = EAGER,
    clock: Callable[[], float] = time.perf_counter,
) -> Forecast:
    """Time a few steps of generation and distillation on copies of the models, and extrapolate over the stream.

    Generation is linear in the images and in the iterations, and is timed with few and with more of each.
    Distillation is timed at its own batch size, without and with a previous student. Images that leave an inversion
    early (``stop_at``) make a run faster than its forecast. ``"always"`` and ``"auto"`` are timed as ``"capture"``,
    because compilation would take longer than the measurement.

    Args:
        strategy: the strategy to run.
        expert: an expert like those of the stream, trained or not.
        student: the student, on the device of the run.
        experts: length of the stream.
        execution: of the hot loops.
        clock: in seconds; for single-threaded loops, ``time.process_time`` excludes other processes.

    Raises:
        BufferSizeError: the buffer is too small for a stream of this length.
        ExmlError: the models do not fit; see :class:`exml.Learner`.

    >>> import exml, torch
    >>> from exml.runs import forecast
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = exml.Expert(head, classes=(0, 1), image_shape=(1, 8, 8))
    >>> student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> strategy = exml.recipes.noise(exml.ExpertProfile.from_experts([expert])).build()
    >>> forecast(strategy, expert, student, experts=5).seconds > 0
    True
    """
    shares = [share_of(strategy.buffer, i) for i in range(1, experts + 1)]
    with global_seed(0, "forecast"):
        trial, held = _Trial(strategy, expert, student, execution, clock), _held(strategy, shares)
        copied = strategy.student == "first-expert" and strategy.calibration is None
        made = [strategy.training.images_for(share) for share in shares]
        generation, distillation = sum(map(trial.generation(max(made), experts > 1), made)), 0.0
        for previous, places in ((False, range(1)), (True, range(1, experts))):
            if places and (previous or not copied):
                cost = trial.distillation(previous)
                distillation += sum(cost(held[min(i, len(held) - 1)]) for i in places)
        if strategy.calibration is not None:
            distillation += experts * trial.calibration(strategy.calibration)
    return Forecast(generation, distillation)


def memory(strategy: Strategy, expert: Expert, student: nn.Module, /, *, experts: int) -> int:
    """Bytes that models and images will take at the peak, without activations, libraries and the interpreter.

    Counted are two experts, four times the student (weights, previous weights, gradient, optimizer), the buffer, the
    new images, and the bank of views.

    >>> import exml, torch
    >>> from exml.runs.forecast import memory
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = exml.Expert(head, classes=(0, 1), image_shape=(1, 8, 8))
    >>> strategy = exml.recipes.noise(exml.ExpertProfile.from_experts([expert])).build()
    >>> memory(strategy, expert, torch.nn.Linear(64, 2), experts=5) > 4 * 64 * strategy.buffer.share(1)
    True
    """
    shares = [share_of(strategy.buffer, i) for i in range(1, experts + 1)]
    held = max(_held(strategy, shares))
    weights = [sum(tensor.nbytes for tensor in module.state_dict().values()) for module in (expert.module, student)]
    bank = 0 if strategy.training.stored else strategy.training.views * held
    images = held + bank + max(shares)
    return 2 * weights[0] + 4 * weights[1] + 4 * images * math.prod(expert.image_shape)


class _Trial:
    """Times the loops of a strategy on copies of its models."""

    def __init__(
        self, strategy: Strategy, expert: Expert, student: nn.Module, execution: Execution, clock: Callable[[], float]
    ) -> None:
        self.strategy, self.student, self.clock = strategy, copy.deepcopy(student), clock
        device = next(student.parameters()).device
        self.expert = attrs.evolve(expert, module=copy.deepcopy(expert.module).to(device))
        self.execution = execution if execution.compile == "never" else attrs.evolve(execution, compile="capture")
        self.classes = check_student(self.student, expert.image_shape)
        self.expert.check(self.classes)
        rehearse(self.student, self.expert, strategy, self.classes)

    def generation(self, images: int, previous: bool) -> Callable[[int], float]:
        """A function from the number of images, up to ``images``, to the seconds to generate them."""
        strategy = self.strategy
        parts = [part for _, part in walk(strategy.generator)]
        lengths = [value for part in parts for value in _lengths(part).values()]
        iterations = max(lengths, default=0)
        # Every part should have one at least, and evolved drawings as many as the states that they keep.
        wanted = [iterations // min(lengths, default=1), *(getattr(part, "snapshots", 1) for part in parts)]
        unit = min(max(wanted), MOST)
        batch = max((getattr(part, "batch_size", 0) for part in parts), default=0) or images
        few = many = min(FEW, max(1, min(images, batch) // 2))
        less, more = min(unit, iterations), min(3 * unit, iterations)
        memory = self._noise(FEW) if previous else None
        context = GenerationContext(strategy.prior, strategy.augmentation, memory=memory, execution=self.execution)

        def generate(count: int, steps: int) -> None:
            _shortened(strategy.generator, steps, iterations)(self.expert, count, 0, context)

        @cache
        def timed(count: int, steps: int) -> float:
            return self._seconds(lambda: generate(count, steps))

        def batches(count: int) -> list[int]:
            whole, rest = divmod(count, batch)
            return [batch] * whole + [rest] * bool(rest)

        generate(few, less)  # the first call loads libraries
        fixed = last = timed(few, less)
        # A slope from times that differ by less than the time of few images would be noise.
        while many < images and (last < BUDGET / 4 or last < 2 * fixed):
            many = min(4 * many, images)
            last = timed(many, less)
        alone = sorted({few, min(many, batch)})
        steps = {n: 0.0 if more == less else (timed(n, more) - timed(n, less)) / (more - less) for n in alone}
        calls = {n: timed(n, less) - less * sum(_line(steps, part) for part in batches(n)) for n in sorted({few, many})}

        def cost(count: int) -> float:
            return _line(calls, count) + iterations * sum(_line(steps, n) for n in batches(count))

        return cost

    def calibration(self, calibration: Calibration) -> float:
        """The seconds to calibrate an expert."""
        return self._seconds(lambda: calibration(self.expert, 0))

    def distillation(self, previous: bool) -> Callable[[int], float]:
        """A function from the number of images in the buffer to the seconds of distillation."""
        training = self.strategy.training
        has_bank = training.stored or training.views > 0 or training.ridge is not None
        self._steps(FEW, 1, previous)  # the first call loads libraries
        setups: dict[int, float] = {}
        step = 0.0
        for size in (16, 64) if has_bank else (16,):
            began, *ticks = self._steps(size, STEPS, previous)
            step = statistics.median(after - before for before, after in pairwise(ticks[-STEPS - 1 :]))
            setups[size] = ticks[0] - began - step
        return lambda held: _line(setups, held if has_bank else 16) + training.iterations * step

    def _steps(self, size: int, steps: int, previous: bool) -> list[float]:
        """The times at which distillation began and each of its steps ended, the first of which only warm up."""
        strategy = self.strategy
        warm_up = 1 if self.execution.compile == "never" else 5
        before = None
        if previous:
            known = torch.ones(self.classes, dtype=torch.bool, device=self.expert.device)
            known[list(self.expert.classes)] = len(self.expert.classes) == self.classes
            before = PreviousStudent(copy.deepcopy(self.student).eval().requires_grad_(False), known, known)
        teachers = Teachers(before, self.expert, strategy.normalizer, strategy.combiner, self.classes)
        memory, ticks = self._noise(size), [self._now()]
        if strategy.training.stored:
            fresh = attrs.evolve(memory, logits=memory.images.new_zeros(size, self.classes))
            memory = store_logits(fresh, teachers, self.execution)
        distill(
            self.student,
            teachers,
            memory,
            loss=strategy.loss,
            training=attrs.evolve(strategy.training, iterations=warm_up + steps),
            augmentation=strategy.augmentation,
            context=DistillationContext(
                seed=0, after_step=lambda _done, _loss: ticks.append(self._now()), execution=self.execution
            ),
        )
        return ticks

    def _noise(self, count: int) -> Samples:
        device = self.expert.device
        images = torch.rand(count, *self.expert.image_shape, device=device)
        labels = self.expert.class_ids.to(device)[torch.arange(count, device=device) % len(self.expert.classes)]
        return Samples.of(images, labels, task=self.expert.task, experience=1)

    def _now(self) -> float:
        if self.expert.device.type == "cuda":
            torch.cuda.synchronize(self.expert.device)
        return self.clock()

    def _seconds(self, call: Callable[[], object]) -> float:
        """The least time of a few calls, within the budget."""
        times: list[float] = []
        while not times or (len(times) < 3 and sum(times) < BUDGET):
            began = self._now()
            call()
            times.append(self._now() - began)
        return min(times)


def _shortened(generator: Any, steps: int, iterations: int) -> Any:
    """The generator with ``steps`` iterations; those of all generators inside it shrink in proportion."""

    def shorten(part: Any) -> Any:
        own = {name: max(1, round(value * steps / iterations)) for name, value in _lengths(part).items()}
        return attrs.evolve(part, **own) if own else part

    return rebuild(generator, shorten) if iterations else generator


def _lengths(part: Any) -> dict[str, int]:
    """The numbers of iterations of a generator, by field, if it has any: of an optimized or an evolved image."""
    found = {name: getattr(part, name, 0) for name in ("iterations", "steps")}
    return {name: value for name, value in found.items() if isinstance(value, int) and value}


def _line(points: dict[int, float], x: float) -> float:
    """The value at x of the line through two measured points, or through one point and 0; never negative."""
    (low, at_low), (high, at_high) = [(0, 0.0), *points.items()][-2:]
    return max(0.0, at_low + (at_high - at_low) / (high - low) * (x - low))


def _held(strategy: Strategy, shares: list[int]) -> list[int]:
    """Images in the buffer during each experience, found by running the policy on images of one pixel."""
    memory: Samples | None = None
    draws, held = torch.Generator(), list[int]()
    for experience, share in enumerate(shares[:SIMULATED], 1):
        new = Samples.of(torch.zeros(share, 1, 1, 1), torch.zeros(share, dtype=torch.int64), experience=experience)
        memory = updated(strategy.buffer, memory, new, draws)
        held.append(len(memory))
    return held
