"""The hot loop of generation: gradient descent over the pixels of one mini-batch (Sec. 4)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exml.core.activation import Activation
from exml.core.errors import NonFiniteError
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks, Shard
from exml.core.rng import derive_seed
from exml.core.shapes import Images, Labels, Logits
from exml.engine._active_images import Flight
from exml.engine._shards import augment
from exml.engine._steps import compile_whole, exchanging, in_form
from exml.engine.lowering import Lowered, Network, recorded
from exml.protocols import Augmentation, Journal, Prior

Objective: TypeAlias = Callable[[Logits, Labels], Float[Tensor, " batch"]]
"""The data term of each image, of the module's outputs and the images' positions in the mini-batch."""
Finished: TypeAlias = Callable[[Logits, Labels], Bool[Tensor, " batch"]]
"""Which images are good enough, of the module's outputs and the images' positions in the mini-batch."""


def invert(
    module: nn.Module,
    images: Images,
    objective: Objective,
    *,
    iterations: int,
    learning_rate: float,
    seed: int,
    journal: Journal,
    prior: Prior | None = None,
    augmentation: Augmentation | None = None,
    clamp: float | None = None,
    finished: Finished | None = None,
    execution: Execution = EAGER,
    ranks: Ranks = ALONE,
) -> Images:
    """Change images until a frozen network answers as wanted, by Adam on their pixels.

    Minimised is the sum, not the mean, of ``objective + prior`` over the images: the gradient of an image then depends
    neither on the size of the mini-batch nor on how many of the others are finished. Adam would hide such a factor, but
    for its epsilon, which gradients of nearly perfect images do meet.

    Augmentation stands before the network alone: pixel priors see the images as they are, priors on activations see
    those of the augmented images. Its draws are a function of ``seed`` and the iteration, so that a resumed run makes
    the same ones.

    Several ranks share out the images of the mini-batch. Each changes its own, and statistics over the batch
    (:meth:`exml.priors.Activation.var_mean`) are those of the whole one, with their gradients: the images are those of
    one rank, but for rounding.

    Args:
        module: in any mode; used in evaluation mode without weight gradients, and put back afterwards. What runs is
            :func:`exml.engine.lowered`.
        images: ``(batch, channels, height, width)``, where to start, in the module's units; not changed.
        objective: the data term, ``(batch,)``.
        iterations: Adam steps.
        learning_rate: of Adam.
        seed: for the augmentation.
        journal: told after every step; hands back the state of a run that was killed.
        prior: added to the objective.
        augmentation: applied before every forward pass.
        clamp: pixels are held within ``[-clamp, clamp]`` after every step; None holds nothing.
        finished: asked before every step; an image for which it holds is kept as it is and leaves the mini-batch. This
            waits for the device once a step, which is then executed operation by operation.
        execution: of the steps; those in which ranks exchange statistics are executed operation by operation.
        ranks: all call with the same arguments.

    Returns:
        ``(batch, channels, height, width)``, in the module's units, in the order of ``images``.

    Raises:
        NonFiniteError: when an image ends with NaN or infinity.

    >>> from exml.generators import NoJournal
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> towards_0 = lambda logits, rows: nn.functional.cross_entropy(logits, 0 * rows, reduction="none")
    >>> start = torch.zeros(3, 1, 2, 2)
    >>> images = invert(net, start, towards_0, iterations=20, learning_rate=0.1, seed=0, journal=NoJournal())
    >>> bool((net(images).softmax(1)[:, 0] > net(start).softmax(1)[:, 0]).all())
    True
    """
    with inverter(
        module,
        images,
        iterations=iterations,
        learning_rate=learning_rate,
        prior=prior,
        augmentation=augmentation,
        clamp=clamp,
        execution=execution,
        ranks=ranks,
    ) as inversion:
        return inversion(images, objective, seed=seed, journal=journal, finished=finished)


@contextmanager
def inverter(
    module: nn.Module,
    probe: Images,
    *,
    iterations: int,
    learning_rate: float,
    prior: Prior | None = None,
    augmentation: Augmentation | None = None,
    clamp: float | None = None,
    execution: Execution = EAGER,
    ranks: Ranks = ALONE,
) -> Generator[Inverter]:
    """:func:`invert` for several mini-batches, whose network is made ready once."""
    record = prior is not None and prior.reads_activations
    with recorded(module, probe[:2], record=record) as network:
        yield Inverter(network, iterations, learning_rate, prior, augmentation, clamp, execution, ranks)


@attrs.define(eq=False)
class Inverter:
    """What :func:`inverter` gives; see :func:`invert`."""

    network: Network
    iterations: int
    learning_rate: float
    prior: Prior | None
    augmentation: Augmentation | None
    clamp: float | None
    execution: Execution
    ranks: Ranks
    _compiled: Network | None = attrs.field(default=None, init=False)

    def __call__(
        self, images: Images, objective: Objective, *, seed: int, journal: Journal, finished: Finished | None = None
    ) -> Images:
        """Invert one mini-batch."""
        flight = Flight.begin(images, self.ranks.shard(len(images)), self.learning_rate, journal.restore())
        draws = torch.Generator(images.device)
        with torch.enable_grad():
            step = self._step(self.network, flight, objective, draws, finished)
            if finished is not None:
                flight.count()
            elif self._exchanges:
                exchanging(self.execution)
            else:
                step = in_form(
                    self.execution,
                    step,
                    lambda: self._step(self._compile(), flight, objective, draws, None),
                    generators=(draws,),
                    steps=self.iterations - flight.step,
                    device=images.device,
                )
            while flight.step < self.iterations and flight.flying.total:
                draws.manual_seed(derive_seed(seed, flight.step))
                step()
                flight.step += 1
                if finished is not None:
                    flight.count()
                journal.record(flight.step, self.iterations, flight.state)
        result = flight.images()
        if not bool(result.isfinite().all()):
            raise NonFiniteError(
                expected="finite images from inversion",
                got=f"NaN or infinity in {int((~result.flatten(1).isfinite().all(1)).sum())} of {len(result)}",
                remedy="lower the learning rate or the weights of the priors, or clamp the images",
            )
        return result

    @property
    def _exchanges(self) -> bool:
        """Whether a rank needs the others for a step."""
        return not self.ranks.alone and self.prior is not None and self.prior.reads_activations

    def _step(
        self,
        network: Network,
        flight: Flight,
        objective: Objective,
        draws: torch.Generator,
        finished: Finished | None,
    ) -> Callable[[], None]:
        def step() -> None:
            if not flight.flying.own:
                self._stand_by(network, flight)
                return
            loss, logits = self._loss(network, flight, objective, draws)
            done = None if finished is None else finished(logits.detach(), flight.rows)
            del logits  # what the backward pass has used need not live until its end
            (gradient,) = torch.autograd.grad(loss, flight.active)
            if done is not None and bool(done.any()):
                gradient = flight.land(done, gradient)
            flight.advance(gradient, self.clamp)

        return step

    def _loss(
        self, network: Network, flight: Flight, objective: Objective, draws: torch.Generator
    ) -> tuple[Float[Tensor, ""], Logits]:
        """What a step minimises, and the logits; the sum over all ranks is the loss of the whole mini-batch."""
        shard = flight.flying
        seen = augment(self.augmentation, flight.active, draws, shard)
        with self.execution.autocast(seen.device):
            logits, activations = network(seen)
        logits = logits.to(seen.dtype)
        loss = objective(logits, flight.rows).sum()
        if self.prior is not None:
            loss = loss + shard.own * self.prior(flight.active, self._of_shard(activations, shard))
        return loss, logits

    def _of_shard(self, activations: Sequence[Activation], shard: Shard) -> Sequence[Activation]:
        return activations if self.ranks.alone else [attrs.evolve(part, shard=shard) for part in activations]

    @torch.no_grad()
    def _stand_by(self, network: Network, flight: Flight) -> None:
        """Take part in what the ranks tell each other, without an image of one's own."""
        if self._exchanges and self.prior is not None:
            _, activations = network(flight.spare)
            self.prior(flight.spare, self._of_shard(activations, flight.flying))

    def _compile(self) -> Network:
        """Compiled at most once: other mini-batches of the same size run the same code."""
        if self._compiled is None:
            if not isinstance(self.network, Lowered):
                raise TypeError("its network cannot be traced")
            self._compiled = attrs.evolve(self.network, graph=compile_whole(self.network.graph))
        return self._compiled
