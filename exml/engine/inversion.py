"""The hot loop of generation: gradient descent over the pixels of one mini-batch (Sec. 4)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exml._rng import derive_seed
from exml._types import Augmentation, Images, Journal, Labels, Logits, Prior, State
from exml.engine._steps import compile_whole, in_form
from exml.engine.execution import EAGER, Execution
from exml.engine.lowering import Lowered, Network, recorded
from exml.errors import NonFiniteError

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
) -> Images:
    """Change images until a frozen network answers as wanted, by Adam on their pixels.

    Minimised is the sum, not the mean, of ``objective + prior`` over the images: the gradient of an image then depends
    neither on the size of the mini-batch nor on how many of the others are finished. Adam would hide such a factor, but
    for its epsilon, which gradients of nearly perfect images do meet.

    Augmentation stands before the network alone: pixel priors see the images as they are, priors on activations see
    those of the augmented images. Its draws are a function of ``seed`` and the iteration, so that a resumed run makes
    the same ones.

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
        execution: of the steps.

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
) -> Generator[Inverter]:
    """:func:`invert` for several mini-batches, whose network is made ready once."""
    record = prior is not None and prior.reads_activations
    with recorded(module, probe[:2], record=record) as network:
        yield Inverter(network, iterations, learning_rate, prior, augmentation, clamp, execution)


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
    _compiled: Network | None = attrs.field(default=None, init=False)

    def __call__(
        self, images: Images, objective: Objective, *, seed: int, journal: Journal, finished: Finished | None = None
    ) -> Images:
        """Invert one mini-batch."""
        flight = _Flight.begin(images, self.learning_rate, journal.restore())
        draws = torch.Generator(images.device)
        with torch.enable_grad():
            eager = self._step(self.network, flight, objective, draws, finished)
            step = eager
            if finished is None:
                step = in_form(
                    self.execution,
                    eager,
                    lambda: self._step(self._compile(), flight, objective, draws, None),
                    generators=(draws,),
                    steps=self.iterations - flight.step,
                    device=images.device,
                )
            while flight.step < self.iterations and len(flight.rows):
                draws.manual_seed(derive_seed(seed, flight.step))
                step()
                flight.step += 1
                journal.record(flight.step, self.iterations, flight.state)
        result = flight.images()
        if not bool(result.isfinite().all()):
            raise NonFiniteError(
                expected="finite images from inversion",
                got=f"NaN or infinity in {int((~result.flatten(1).isfinite().all(1)).sum())} of {len(result)}",
                remedy="lower the learning rate or the weights of the priors, or clamp the images",
            )
        return result

    def _step(
        self,
        network: Network,
        flight: _Flight,
        objective: Objective,
        draws: torch.Generator,
        finished: Finished | None,
    ) -> Callable[[], None]:
        def step() -> None:
            seen = flight.active if self.augmentation is None else self.augmentation(flight.active, draws)
            with self.execution.autocast(seen.device):
                logits, activations = network(seen)
            logits = logits.to(seen.dtype)
            done = None if finished is None else finished(logits.detach(), flight.rows)
            loss = objective(logits, flight.rows).sum()
            if self.prior is not None:
                loss = loss + len(flight.rows) * self.prior(flight.active, activations)
            del activations, seen  # what the backward pass has used need not live until its end
            (gradient,) = torch.autograd.grad(loss, flight.active)
            if done is not None and bool(done.any()):
                gradient = flight.land(done, gradient)
            flight.advance(gradient, self.clamp)

        return step

    def _compile(self) -> Network:
        """Compiled at most once: other mini-batches of the same size run the same code."""
        if self._compiled is None:
            if not isinstance(self.network, Lowered):
                raise TypeError("its network cannot be traced")
            self._compiled = attrs.evolve(self.network, graph=compile_whole(self.network.graph))
        return self._compiled


@attrs.define(eq=False)
class _Flight:
    """The images of one mini-batch on their way; those in ``rows`` are still changing, with Adam's moments of them."""

    landed: Images
    rows: Labels
    active: Tensor
    adam: torch.optim.Adam
    step: int

    @classmethod
    def begin(cls, images: Images, learning_rate: float, state: State | None) -> _Flight:
        if state is None:
            landed, rows, step = images.detach().clone(), torch.arange(len(images), device=images.device), 0
        else:
            landed, rows, step = state["images"].to(images).clone(), state["rows"].to(images.device), int(state["step"])
        active = landed[rows].requires_grad_()
        flight = cls(landed, rows, active, _adam(active, learning_rate), step)
        if state is not None:
            moments = {name: state[name].to(images).clone() for name in ("exp_avg", "exp_avg_sq")}
            flight.adam.state[active] = {"step": torch.tensor(float(step), device=images.device), **moments}
        return flight

    def land(self, done: Bool[Tensor, " batch"], gradient: Images) -> Float[Tensor, "others channels height width"]:
        """Take images out as they are; returns the gradient of the others."""
        self.landed[self.rows[done]] = self.active.detach()[done]
        stay, moments = ~done, self.adam.state[self.active]
        learning_rate = self.adam.param_groups[0]["lr"]
        self.rows, self.active = self.rows[stay], self.active.detach()[stay].requires_grad_()
        self.adam = _adam(self.active, learning_rate)
        if moments:  # none before the first step
            kept = {name: moments[name][stay] for name in ("exp_avg", "exp_avg_sq")}
            self.adam.state[self.active] = {"step": moments["step"], **kept}
        return gradient[stay]

    def advance(self, gradient: Images, clamp: float | None) -> None:
        # The fused kernel reads memory in its order, and a convolution's gradient may have its channels last.
        self.active.grad = gradient.contiguous()
        self.adam.step()
        if clamp is not None:
            with torch.no_grad():
                self.active.clamp_(-clamp, clamp)

    def images(self) -> Images:
        return self.landed.index_copy(0, self.rows, self.active.detach())

    def state(self) -> State:
        moments = {name: self.adam.state[self.active][name].clone() for name in ("exp_avg", "exp_avg_sq")}
        return {"images": self.images(), "rows": self.rows.clone(), "step": torch.tensor(self.step), **moments}


def _adam(images: Tensor, learning_rate: float) -> torch.optim.Adam:
    # One fused kernel where there is one: the steps of many small tensors would cost more than the network.
    device = images.device.type
    return torch.optim.Adam([images], learning_rate, fused=device in ("cpu", "cuda"), capturable=device == "cuda")
