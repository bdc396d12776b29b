"""The model of the cost: time and memory from rates and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from exml._validators import positive_int
from exml.costs.cost import Cost, ExperienceCost, Memory
from exml.costs.leaves import batch_of, counts, iterations_of, leaves
from exml.costs.rates import Rates
from exml.costs.sizes import Sizes
from exml.engine import Training
from exml.strategy import Strategy

_FLOAT = 4
_TOGETHER = 512
"""Images that a generator which does not iterate, and a bank, go over together."""
_TARGET = _FLOAT + 1 + 1
"""Bytes of one class in the target of a view: a logit, whether it is defined, whether it is a candidate."""


@attrs.frozen
class CostModel:
    r"""Predicts what a strategy costs from how fast a device is and how large the models are; it runs nothing.

    With :math:`n_i` new images (``buffer.share(i)``, for Eq. 5 :math:`\lfloor N/i \rfloor`), :math:`M_i` images held,
    R ranks, K iterations over mini-batches of B images, T steps of distillation over b samples and V views, and
    :math:`\lambda(x) = \lambda^0 + \lambda^1 x` a line of the rates, experience i takes

    .. math::
        G_i &= \sum_{generators} \Big[ call(n_i) + K \sum_{batches}
               \big( step(\lceil B/R \rceil) + gather(8 C) \big) \Big] \\
        D_i &= setup + V \lceil M_i / R \rceil \, view + T \big( step(\lceil b/R \rceil) + add(P) + norms \big) \\
        O_i &= experience + update \, (M_{i-1} + n_i)

    Here :math:`8C` are the bytes of mean and variance of the expert's batch-norm channels, if a prior reads them,
    and P the bytes of the gradient; *norms* are two small collectives for each batch-norm layer of the student, one in
    each direction. Collectives are those of :class:`Link`, and nothing on one rank.

    Args:
        strategy: what will be done.
        rates: how fast.
        sizes: how large.
        ranks: R.
    """

    strategy: Strategy
    rates: Rates
    sizes: Sizes
    ranks: int = attrs.field(default=1, validator=positive_int())

    def cost(self, experts: int, /) -> Cost:
        """What a stream of so many experts costs.

        Raises:
            BufferSizeError: when the buffer is too small for a stream of this length.
        """
        self.strategy.buffer.share(experts)
        experiences = tuple(self._experiences(experts))
        held = max(experience.held for experience in experiences)
        return Cost(experiences, self.ranks, float(self.sizes.sample), self.bank(held))

    def generation(self, images: int, experience: int = 1) -> float:
        """Seconds to make so many images in an experience, from 1."""
        generator = self.strategy.generator
        parts = zip(leaves(generator), counts(generator, images, experience), self.rates.generation, strict=True)
        seconds = 0.0
        for leaf, count, rates in parts:
            if not count:
                continue
            size, iterations = batch_of(leaf, count), iterations_of(leaf)
            whole, rest = divmod(count, size)
            steps = whole * self._inversion_step(rates.step(self._own(size)))
            steps += self._inversion_step(rates.step(self._own(rest))) if rest else 0.0
            seconds += rates.call(count) + iterations * steps
        return seconds

    def distillation(self, held: int, experience: int) -> float:
        """Seconds of the distillation of an experience, from 1, with so many images in the buffer."""
        strategy, training = self.strategy, self.strategy.training
        if strategy.student == "first-expert" and experience == 1:
            return 0.0
        rates = self.rates.first if experience == 1 else self.rates.later
        step = rates.step(self._own(training.batch_size)) + self._talk()
        return rates.setup + training.views * self._own(held) * rates.view + training.iterations * step

    def bank(self, held: int) -> float:
        """Bytes of the bank of views."""
        sizes = self.sizes
        return self.strategy.training.views * held * (sizes.image + sizes.classes * _TARGET + 8.0)

    def memory(self, images: int, before: int, held: int, experience: int) -> Memory:
        """Bytes on one rank in an experience, from 1.

        Args:
            images: how many are generated.
            before: how many the buffer held before.
            held: and holds afterwards.
            experience: from 1.
        """
        sizes, strategy, training = self.sizes, self.strategy, self.strategy.training
        student = sizes.student * (2 if strategy.student == "reset" else 1)
        new = images * sizes.sample
        needed = [0.0]
        parts = zip(
            leaves(strategy.generator), counts(strategy.generator, images, experience), sizes.generation, strict=True
        )
        for leaf, count, leaf_sizes in parts:
            together = min(batch_of(leaf, count), count if iterations_of(leaf) else _TOGETHER)
            needed.append(leaf_sizes.memory(self._own(together)) + (count - self._own(together)) * sizes.image)
        kept = max(held - images, 0)
        buffers = (held + (images if experience > 1 else 0)) * float(sizes.sample)
        distillation = buffers
        if not (strategy.student == "first-expert" and experience == 1):
            # A network is lowered as a copy of itself; the state of the previous student is there once more.
            teachers = sizes.expert + (3 * sizes.student if experience > 1 else 0)
            working = sizes.activations * self._own(training.batch_size)
            # A bank is made of parts, about which the teachers are asked, and which are there until they are joined.
            bank, part = self.bank(held), min(held, _TOGETHER)
            joined = max(2 * bank, bank + part * (sizes.asked - self.bank(1) / training.views)) if training.views else 0
            distillation += teachers + max(joined, bank + (1 + _slots(training)) * sizes.parameters + working)
        return Memory(
            models=student + 2.0 * sizes.expert,
            generation=before * sizes.sample + max(needed),
            update=(before + held + kept) * sizes.sample + (new if experience > 1 else 0.0),
            distillation=distillation,
        )

    def checkpoint(self, held: int, experience: int) -> float:
        """Bytes of the two files of a checkpoint in the middle of a distillation."""
        sizes, training = self.sizes, self.strategy.training
        students = 1 + (experience > 1) + (self.strategy.student == "reset")
        return held * float(sizes.sample) + students * sizes.student + _slots(training) * sizes.parameters

    def _experiences(self, experts: int) -> Iterator[ExperienceCost]:
        """One after another; a policy with a ``size`` holds no more than that, any other holds all."""
        limit = getattr(self.strategy.buffer, "size", math.inf)
        before = 0
        for experience in range(1, experts + 1):
            images = self.strategy.buffer.share(experience)
            held = int(min(before + images, limit))
            yield ExperienceCost(
                images,
                held,
                self.generation(images, experience),
                self.distillation(held, experience),
                self.rates.experience + self.rates.update * (before + images),
                self.memory(images, before, held, experience),
                self.checkpoint(held, experience),
            )
            before = held

    def _own(self, count: int) -> int:
        """The rows of the rank that has most of them."""
        return math.ceil(count / self.ranks)

    def _inversion_step(self, seconds: float) -> float:
        prior = self.strategy.prior
        if self.ranks == 1 or prior is None or not prior.reads_activations:
            return seconds
        return seconds + self.rates.link.gather(2 * _FLOAT * self.sizes.expert_channels, self.ranks)

    def _talk(self) -> float:
        """Seconds in which the ranks exchange what a step of distillation needs."""
        if self.ranks == 1:
            return 0.0
        sizes, link = self.sizes, self.rates.link
        seconds = link.add(sizes.parameters, self.ranks)
        if sizes.norms:
            channels = sizes.norm_channels / sizes.norms
            each = link.gather(_FLOAT * (2 * channels + 1), self.ranks) + link.add(2 * _FLOAT * channels, self.ranks)
            seconds += sizes.norms * each
        return seconds


def _slots(training: Training) -> int:
    """Tensors that the optimizer keeps for each parameter."""
    return int(training.momentum > 0) if training.optimizer == "sgd" else 2
