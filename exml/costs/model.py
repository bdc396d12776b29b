"""The model of the cost: time and memory from rates and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import attrs

from exml.core.errors import SettingError
from exml.core.samples import inference_batch_size
from exml.core.validators import positive_int
from exml.costs.cost import Cost, ExperienceCost, Memory
from exml.costs.leaves import batch_of, counts, iterations_of, leaves
from exml.costs.rates import Rates
from exml.costs.sizes import Sizes
from exml.engine import Training
from exml.learning.strategy import Strategy
from exml.protocols import Generator

_FLOAT = 4
_MEETING = 0.05
"""Seconds between two looks of a rank at whether the leader has begun an experience."""
_DRAWN = 4
"""How often all images of a generator are in memory while it begins: as drawn, scaled, shifted, and copied."""
_TARGET = _FLOAT + 1 + 1
"""Bytes of one class in the target of a view: a logit, whether it is defined, whether it is a candidate."""


@attrs.frozen(slots=False)
class CostModel:
    r"""Predicts what a strategy costs from how fast a device is and how large the models are; it runs nothing.

    With :math:`n_i` new images (``buffer.share(i)``, for Eq. 5 :math:`\lfloor N/i \rfloor`), :math:`M_i` images held,
    R ranks, K iterations over mini-batches of B images, T steps of distillation over b samples and V views, and
    :math:`\lambda(x) = \lambda^0 + \lambda^1 x` a line of the rates, experience i takes

    .. math::
        G_i &= \sum_{generators} [ \mathrm{call}(n_i) + K \sum_{batches} ( \mathrm{step}(\lceil B/R \rceil) + X_1 ) ] \\
        D_i &= \mathrm{setup} + V \lceil M_i/R \rceil \, \mathrm{view} + T ( \mathrm{step}(\lceil b/R \rceil) + X_2 ) \\
        O_i &= \mathrm{experience} + \mathrm{update} \, (M_{i-1} + n_i) + X_3

    What does not iterate is done by every rank alike. The exchanges X are nothing on one rank; on several they are made
    of the collectives of :class:`Link`. The first gathers mean and variance of all batch-norm channels of the expert,
    if a prior reads them. The second adds up the gradient, and for each batch-norm layer of the student gathers its
    statistics and adds up their gradients. The third sends the leader's student and images to all, once in an
    experience.

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
            SettingError: when a mini-batch of distillation has fewer samples than there are ranks.
        """
        self.strategy.buffer.share(experts)
        if self.strategy.training.batch_size < self.ranks:
            raise SettingError(
                expected=f"at most {self.strategy.training.batch_size} ranks, one for each sample of a mini-batch",
                got=str(self.ranks),
                remedy="ask for fewer ranks, or enlarge the mini-batch",
            )
        experiences = tuple(self._experiences(experts))
        held = max(experience.held for experience in experiences)
        return Cost(experiences, self.ranks, float(self.sizes.sample), self.bank(held))

    def generation(self, images: int, experience: int = 1) -> float:
        """Seconds to make so many images in an experience, from 1."""
        generator = self.strategy.generator
        made = counts(generator, images, experience)
        seconds = 0.0
        for (leaf, iterations), count, rates in zip(self._leaves, made, self.rates.generation, strict=True):
            if not count:
                continue
            size = batch_of(leaf, count)
            whole, rest = divmod(count, size)
            seconds += rates.call(count)
            for times, images_together in ((whole, size), (1, rest)) if iterations else ():
                own = self._own(images_together)
                steps = iterations * (rates.step(own) + self._exchange_of_inversion())
                seconds += times * (steps + self.rates.link.gather(own * self.sizes.image, self.ranks)) if own else 0.0
        return seconds

    def distillation(self, held: int, experience: int) -> float:
        """Seconds of the distillation of an experience, from 1, with so many images in the buffer."""
        strategy, training = self.strategy, self.strategy.training
        if strategy.student == "first-expert" and experience == 1:
            return 0.0
        rates = self.rates.first if experience == 1 else self.rates.later
        step = rates.step(self._own(training.batch_size)) + self._exchange_of_distillation()
        return rates.setup + training.views * self._own(held) * rates.view + training.iterations * step

    def other(self, images: int, before: int) -> float:
        """Seconds of an experience that makes so many images and finds so many in the buffer, beside its two loops."""
        seconds = self.rates.experience + self.rates.update * (before + images)
        if self.ranks == 1:
            return seconds
        link, sizes = self.rates.link, self.sizes
        told = link.share(sizes.student, self.ranks, sizes.tensors) + link.share(images * sizes.sample, self.ranks, 4)
        return seconds + _MEETING + told

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
        made = counts(strategy.generator, images, experience)
        for (leaf, iterations), count, leaf_sizes in zip(self._leaves, made, sizes.generation, strict=True):
            together = self._own(min(batch_of(leaf, count), count if iterations else self._together))
            waiting = (count - together) * sizes.image
            needed += [leaf_sizes.memory(together) + waiting, _DRAWN * count * sizes.image]
        kept = max(held - images, 0)
        buffers = (held + (images if experience > 1 else 0)) * float(sizes.sample)
        distillation = buffers
        if not (strategy.student == "first-expert" and experience == 1):
            # A network is lowered as a copy of itself; the state of the previous student is there once more.
            teachers = sizes.expert + (3 * sizes.student if experience > 1 else 0)
            working = sizes.activations * self._own(training.batch_size)
            # A bank is made of parts, about which the teachers are asked, and which are there until they are joined.
            bank, part = self.bank(held), min(held, self._together)
            joined = max(2 * bank, bank + part * (sizes.asked - self.bank(1) / training.views)) if training.views else 0
            # Ranks send all gradients at once, in a tensor of their own.
            trained = (1 + _slots(training) + (self.ranks > 1)) * sizes.parameters
            distillation += teachers + max(joined, bank + trained + working)
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

    @property
    def _together(self) -> int:
        """Images that a generator which does not iterate, and a bank, go over together."""
        return inference_batch_size((self.sizes.image // _FLOAT,))

    @cached_property
    def _leaves(self) -> tuple[tuple[Generator, int], ...]:
        """The leaves of the generator with their iterations."""
        return tuple((leaf, iterations_of(leaf)) for leaf in leaves(self.strategy.generator))

    def _experiences(self, experts: int) -> Iterator[ExperienceCost]:
        """One after another; a policy with a ``size`` holds no more than that, any other holds all."""
        limit = getattr(self.strategy.buffer, "size", math.inf)
        before, known = 0, (0, 0, 0, False)
        last: ExperienceCost | None = None
        for experience in range(1, experts + 1):
            images = self.strategy.buffer.share(experience)
            held = int(min(before + images, limit))
            # All that matters of an experience; along a stream it seldom changes.
            key = (images, before, held, experience > 1)
            if last is None or key != known:
                last, known = self._experience(images, before, held, experience), key
            yield last
            before = held

    def _experience(self, images: int, before: int, held: int, experience: int) -> ExperienceCost:
        return ExperienceCost(
            images,
            held,
            self.generation(images, experience),
            self.distillation(held, experience),
            self.other(images, before),
            self.memory(images, before, held, experience),
            self.checkpoint(held, experience),
        )

    def _own(self, count: int) -> int:
        """The rows of the rank that has most of them."""
        return math.ceil(count / self.ranks)

    def _exchange_of_inversion(self) -> float:
        """Seconds of a step in which the ranks exchange statistics."""
        prior = self.strategy.prior
        if prior is None or not prior.reads_activations:
            return 0.0
        return self.rates.link.gather(2 * _FLOAT * self.sizes.expert_channels, self.ranks)

    def _exchange_of_distillation(self) -> float:
        """Seconds of a step in which the ranks exchange gradients and the statistics of the student's batch norm."""
        sizes, link = self.sizes, self.rates.link
        seconds = link.add(sizes.parameters, self.ranks)
        if sizes.norms:
            moments = 2 * _FLOAT * sizes.norm_channels / sizes.norms
            seconds += sizes.norms * (link.gather(moments, self.ranks) + link.add(moments, self.ranks))
        return seconds


def _slots(training: Training) -> int:
    """Tensors that the optimizer keeps for each parameter."""
    return int(training.momentum > 0) if training.optimizer == "sgd" else 2
