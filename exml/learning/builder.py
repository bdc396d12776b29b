"""StrategyBuilder: builds a strategy part by part, checked by the type checker."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias

import attrs
from typing_extensions import TypeVar

from exml.core.errors import StrategyError
from exml.core.registry import ROLES
from exml.engine import Training
from exml.learning.strategy import Strategy, misplaced
from exml.normalizers import RawLogits
from exml.priors import Sum
from exml.protocols import Augmentation, BufferPolicy, Calibration, Combiner, Generator, Loss, Normalizer, Prior


class Missing:
    """Type of a part of the strategy that is missing."""


class Given:
    """Type of a part of the strategy that is given."""


GeneratorT = TypeVar("GeneratorT", default=Missing)
CombinerT = TypeVar("CombinerT", default=Missing)
BufferT = TypeVar("BufferT", default=Missing)
LossT = TypeVar("LossT", default=Missing)
TrainingT = TypeVar("TrainingT", default=Missing)


@attrs.frozen
class StrategyBuilder(Generic[GeneratorT, CombinerT, BufferT, LossT, TrainingT]):
    """Builds a :class:`exml.Strategy`. Each method returns a new builder, so that variants can share a base.

    Generator, combiner, buffer, loss and training are required. A type checker rejects :meth:`build` without them, and
    a part of the wrong family. At run time, one error lists all problems.

    >>> import exml
    >>> strategy = (
    ...     exml.StrategyBuilder()
    ...     .generator(exml.generators.ProceduralImages())
    ...     .combiner(exml.combiners.ProductOfExperts())
    ...     .buffer(exml.buffers.Cumulative(5_000))
    ...     .loss(exml.losses.MeanSquaredError())
    ...     .training(exml.Training(iterations=1_000, batch_size=128, learning_rate=0.003, optimizer="adam"))
    ...     .build()
    ... )
    >>> strategy.buffer
    Cumulative(size=5000)
    >>> exml.StrategyBuilder().generator(exml.generators.ProceduralImages()).build()
    Traceback (most recent call last):
    exml.core.errors.StrategyError: expected a complete strategy, got 4 problem(s); remedy: fix each of them:
      - combiner is missing: call .combiner(...)
      - buffer is missing: call .buffer(...)
      - loss is missing: call .loss(...)
      - training is missing: call .training(...)
    """

    _generator: Generator | None = None
    _combiner: Combiner | None = None
    _buffer: BufferPolicy | None = None
    _loss: Loss | None = None
    _training: Training | None = None
    _normalizer: Normalizer = attrs.field(factory=RawLogits)
    _priors: tuple[Prior, ...] = ()
    _augmentation: Augmentation | None = None
    _student: Literal["continue", "reset", "first-expert"] = "continue"
    _on_suspect: Literal["refuse", "warn", "accept"] | None = None
    _calibration: Calibration | None = None

    def generator(self, generator: Generator, /) -> StrategyBuilder[Given, CombinerT, BufferT, LossT, TrainingT]:
        """The source of the images (Sec. 4)."""
        return self._with(generator=generator)

    def combiner(self, combiner: Combiner, /) -> StrategyBuilder[GeneratorT, Given, BufferT, LossT, TrainingT]:
        """Combines the logits of the two teachers into one target (Eq. 8)."""
        return self._with(combiner=combiner)

    def buffer(self, buffer: BufferPolicy, /) -> StrategyBuilder[GeneratorT, CombinerT, Given, LossT, TrainingT]:
        """Decides which samples of earlier experiences to keep (Sec. 3)."""
        return self._with(buffer=buffer)

    def loss(self, loss: Loss, /) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, Given, TrainingT]:
        """The loss of the student (Eqs. 9, 10)."""
        return self._with(loss=loss)

    def training(self, training: Training, /) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, Given]:
        """Optimizer, schedule and number of iterations per experience."""
        return self._with(training=training)

    def normalizer(
        self, normalizer: Normalizer, /
    ) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """Brings the logits of each teacher to a common scale (Eqs. 6, 7); raw logits by default."""
        return self._with(normalizer=normalizer)

    def priors(self, *priors: Prior) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """The natural image priors (Sec. 4.1), which are summed; replaces those given before."""
        return self._with(priors=priors)

    def augmentation(
        self, augmentation: Augmentation, /
    ) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """Random changes of the images in generation and in distillation (Sec. 4.1)."""
        return self._with(augmentation=augmentation)

    def student(
        self, student: Literal["continue", "reset", "first-expert"], /
    ) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """The student at the start of an experience; see :class:`exml.Strategy`."""
        return self._with(student=student)

    def on_suspect(
        self, policy: Literal["refuse", "warn", "accept"], /
    ) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """What to do with an expert that is probably broken or poisoned; see :class:`exml.Strategy`."""
        return self._with(on_suspect=policy)

    def calibration(
        self, calibration: Calibration | None, /
    ) -> StrategyBuilder[GeneratorT, CombinerT, BufferT, LossT, TrainingT]:
        """Puts the logits of each expert on a common scale before distillation; None does not."""
        return self._with(calibration=calibration)

    def build(self: StrategyBuilder[Given, Given, Given, Given, Given]) -> Strategy:
        """The finished strategy; a StrategyError lists every part that is missing, misplaced or contradictory."""
        parts: dict[str, Any] = {field.alias: getattr(self, field.name) for field in attrs.fields(StrategyBuilder)}
        priors = parts.pop("priors")
        required = ("generator", "combiner", "buffer", "loss", "training")
        problems = [f"{role} is missing: call .{role}(...)" for role in required if parts[role] is None]
        problems += misplaced({role: part for role, part in parts.items() if role in ROLES})
        for prior in priors:
            problems += misplaced({"generator": self._generator, "prior": prior})
        if problems:
            raise StrategyError(list(dict.fromkeys(problems)))
        return Strategy(**parts, prior=Sum(priors) if len(priors) > 1 else priors[0] if priors else None)

    def _with(self, **changes: Any) -> Any:
        return attrs.evolve(self, **changes)


CompleteBuilder: TypeAlias = StrategyBuilder[Given, Given, Given, Given, Given]
"""A builder that has all required parts."""
