"""Inversion: gradient descent on the pixels of images, through a frozen expert (Sec. 4)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from collections.abc import Generator as PyGenerator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exml.core.activation import Activation
from exml.core.errors import NonFiniteError
from exml.core.expert import Expert
from exml.core.ranks import Shard
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples
from exml.core.shapes import Images, Labels, Logits, Scalar, State
from exml.core.validators import in_range, positive_int
from exml.engine._ranks import augment
from exml.engine._steps import Step, compile_whole, exchanging, in_form
from exml.engine.forward import check_images
from exml.engine.lowering import Lowered, Network, recorded
from exml.protocols import STANDALONE, Augmentation, GenerationContext, Generator, Journal, NoJournal, Prior

PerImage: TypeAlias = Callable[[Logits, Labels], Float[Tensor, " batch"]]  # from outputs and positions of the images
_PART = "part."
_MOMENTS = ("exp_avg", "exp_avg_sq")


@attrs.frozen(eq=False)
class Goal:
    """What an inversion optimizes images for.

    Args:
        objective: the data term of each image, ``(batch,)``.
        finished: evaluated before every step; an image for which it holds keeps its value and leaves the mini-batch.
            It synchronizes with the device, so steps are neither captured nor compiled. None: images take all steps.
    """

    objective: PerImage
    finished: Callable[[Logits, Labels], Bool[Tensor, " batch"]] | None = None


@attrs.frozen(kw_only=True)
class Inversion(ABC):
    """The settings of all generators that optimize pixels with Adam. A generator inherits them and sets a goal.

    Args:
        iterations: Adam steps for each image.
        learning_rate: of Adam, in the expert's normalized units.
        temperature: τ, of the softmax in the data term.
        batch_size: images optimized together. Memory bounds it; priors on batch statistics work best if it is large.
        start: makes the initial images; its labels are not used. None: standard normal pixels in normalized units.
        stop_at: an image is finished once its label has a probability above this (at temperature 1, as augmented).
            None: all images take all steps. The paper shows images made with 0.99.
        clamp: limits pixels to ``[-clamp, clamp]`` in normalized units after every step; the reference code uses 3.
        augmentation: applied to the images before every forward pass, in normalized units; None: the strategy's.
    """

    iterations: int = attrs.field(default=500, validator=positive_int())
    learning_rate: float = attrs.field(default=0.1, validator=in_range(0, open_low=True))
    temperature: float = attrs.field(default=2.0, validator=in_range(0, open_low=True))
    batch_size: int = attrs.field(default=512, validator=positive_int(2**16))
    start: Generator | None = None
    stop_at: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    clamp: float | None = attrs.field(default=None, validator=in_range(0, open_low=True, optional=True))
    augmentation: Augmentation | None = None
    uses_priors = True

    @property
    def uses_real_data(self) -> bool:
        """Whether ``start`` does."""
        return self.start is not None and self.start.uses_real_data

    @abstractmethod
    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units."""

    def optimize(
        self,
        expert: Expert,
        size: int,
        seed: int,
        context: GenerationContext,
        objective: PerImage,
        probability: PerImage,
    ) -> Images:
        """Invert ``size`` images in mini-batches; returns ``(size, channels, height, width)``, in pixel units.

        ``objective`` is the data term of each image; ``probability`` is that of its label, compared with ``stop_at``.
        Raises an ExpertError if the logits have no gradient with respect to the pixels, a ShapeError if the expert does
        not take the images of ``start``, and a NonFiniteError if an image ends with NaN or infinity.
        """
        expert.check_gradient()
        state = context.journal.restore()

        def goal(start: int, limit: float | None = self.stop_at) -> Goal:
            return Goal(
                lambda logits, rows: objective(logits, start + rows),
                None if limit is None else lambda logits, rows: probability(logits, start + rows) > limit,
            )

        if state is None:
            images, first = self._initial(expert, size, derive_seed(seed, "start"), context), 0
        else:
            images, first = state["images"].to(expert.device).clone(), int(state["batch"])
        batches = math.ceil(size / self.batch_size)
        named = f"expert {expert.name!r}"
        with inverter(expert.module, expert.normalize(images[:2]), self, context, name=named) as invert:
            for batch in range(first, batches):

                def around(batch: int = batch) -> dict[str, Tensor]:
                    return {"images": images.clone(), "batch": torch.tensor(batch)}

                rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
                begin, end, total = (count * self.iterations for count in (batch, batch + 1, batches))
                part = part_of(state) if state is not None and batch == first else None
                journal = NestedJournal(context.journal, begin, end, total, around, part)
                batch_seed = derive_seed(seed, "inversion", batch)
                inverted = invert(expert.normalize(images[rows]), goal(rows.start), batch_seed, journal)
                images[rows] = expert.denormalize(inverted)
        return images

    def _initial(self, expert: Expert, size: int, seed: int, context: GenerationContext) -> Images:
        if self.start is None:
            return white_noise(expert, size, seed)
        images = self.start(expert, size, seed, attrs.evolve(context, journal=NoJournal())).images.clone()
        check_images(images, expert, f"{type(self.start).__name__}, the start of the inversion")
        return images


def white_noise(expert: Expert, size: int, seed: int, std: float = 1.0) -> Images:
    """Normal pixels in the expert's normalized units, returned in pixel units."""
    draws = make_generator(expert.device, seed, "gaussian-noise")
    noise = torch.randn(size, *expert.image_shape, generator=draws, device=expert.device)
    return expert.denormalize(std * noise)


def invert(
    module: nn.Module,
    images: Images,
    settings: Inversion,
    goal: Goal,
    *,
    seed: int,
    context: GenerationContext = STANDALONE,
) -> Images:
    """Optimize one mini-batch of images for a goal, by Adam on their pixels; returns them in the module's units.

    The loss is the sum of ``objective + prior`` over the images, so the gradient of an image does not depend on the
    batch size. Only the network sees augmented images; pixel priors see the images themselves. The draws of a step
    depend on ``seed`` and the step alone, so a resumed run repeats them. Several ranks share the images; the result
    matches that of one rank up to rounding. Raises a NonFiniteError if an image ends with NaN or infinity.

    Args:
        module: in any mode, which is restored afterwards; runs as :func:`exml.engine.lowered`.
        images: ``(batch, channels, height, width)``, initial values in the module's units; not modified.
        settings: ``iterations``, ``learning_rate``, ``clamp`` and ``augmentation`` are used.
        context: the same on every rank. Steps in which ranks exchange statistics of batch norm run eagerly.

    >>> import torch
    >>> from exml.engine import Goal, invert
    >>> from exml.generators import ModelInversion
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> class_0 = Goal(lambda logits, rows: torch.nn.functional.cross_entropy(logits, 0 * rows, reduction="none"))
    >>> start = torch.zeros(3, 1, 2, 2)
    >>> images = invert(net, start, ModelInversion(iterations=20), class_0, seed=0)
    >>> bool((net(images).softmax(1)[:, 0] > net(start).softmax(1)[:, 0]).all())
    True
    """
    with inverter(module, images, settings, context) as inversion:
        return inversion(images, goal, seed, context.journal)


@contextmanager
def inverter(
    module: nn.Module,
    probe: Images,
    settings: Inversion,
    context: GenerationContext = STANDALONE,
    name: str = "the module",
) -> PyGenerator[Inverter]:
    """:func:`invert` for several mini-batches; lowers the network once, and verifies it on ``probe``, two images.

    Errors name the module by ``name``.
    """
    record = context.prior is not None and context.prior.reads_activations
    with recorded(module, probe[:2], record=record, name=name) as network:
        yield Inverter(network, settings, context)


@attrs.define(eq=False)
class Inverter:
    """What :func:`inverter` yields; see :func:`invert`."""

    network: Network
    settings: Inversion
    context: GenerationContext
    _compiled: Network | None = attrs.field(default=None, init=False)

    def __call__(self, images: Images, goal: Goal, seed: int, journal: Journal) -> Images:
        """Invert one mini-batch."""
        iterations, execution, shard = self.settings.iterations, self.context.execution, self.context.ranks.shard
        state = _ActiveImages.begin(images, shard(len(images)), self.settings.learning_rate, journal.restore())
        draws = torch.Generator(images.device)
        with torch.enable_grad():
            step = self._step(self.network, state, goal, draws)
            if goal.finished is not None:
                state.recount()
            elif self._exchanges:
                exchanging(execution)
            else:
                compiled = partial(self._compiled_step, state, goal, draws)
                step = in_form(execution, step, compiled, draws=draws, steps=iterations - state.step)
            while state.step < iterations and state.active_shard.total:
                draws.manual_seed(derive_seed(seed, state.step))
                step()
                state.step += 1
                if goal.finished is not None:
                    state.recount()
                journal.record(state.step, iterations, state.state)
        result = state.gather()
        if not bool(result.isfinite().all()):
            raise NonFiniteError(
                expected="finite images from inversion",
                got=f"NaN or infinity in {int((~result.flatten(1).isfinite().all(1)).sum())} of {len(result)}",
                remedy="lower the learning rate or the weights of the priors, or clamp the images",
            )
        return result

    @property
    def _exchanges(self) -> bool:
        """Whether ranks exchange statistics in every step."""
        prior = self.context.prior
        return not self.context.ranks.alone and prior is not None and prior.reads_activations

    def _step(self, network: Network, state: _ActiveImages, goal: Goal, draws: torch.Generator) -> Step:
        def step() -> None:
            if not state.active_shard.own:
                if self.context.prior is not None and self._exchanges:  # take part without an active image
                    with torch.no_grad():
                        _penalty(self.context.prior, state.spare, network(state.spare)[1], state.active_shard)
                return
            loss, logits = self._loss(network, state, goal, draws)
            done = None if goal.finished is None else goal.finished(logits.detach(), state.rows)
            del logits  # frees memory during the backward pass
            (gradient,) = torch.autograd.grad(loss, state.active)
            if done is not None and bool(done.any()):
                gradient = state.retire(done, gradient)
            state.advance(gradient, self.settings.clamp)

        return step

    def _loss(
        self, network: Network, state: _ActiveImages, goal: Goal, draws: torch.Generator
    ) -> tuple[Scalar, Logits]:
        """The loss of a step, and the logits; summed over all ranks it is the loss of the whole mini-batch."""
        own, shard = self.settings.augmentation, state.active_shard
        seen = augment(self.context.augmentation if own is None else own, state.active, draws, shard)
        with self.context.execution.autocast(seen.device):
            logits, activations = network(seen)
        logits = logits.to(seen.dtype)
        loss = goal.objective(logits, state.rows).sum()
        if self.context.prior is not None:
            loss = loss + shard.own * _penalty(self.context.prior, state.active, activations, shard)
        return loss, logits

    def _compiled_step(self, state: _ActiveImages, goal: Goal, draws: torch.Generator) -> Step:
        """A step with the compiled network; mini-batches of the same size share the code."""
        if self._compiled is None:
            if not isinstance(self.network, Lowered):
                raise TypeError("its network cannot be traced")
            self._compiled = attrs.evolve(self.network, graph=compile_whole(self.network.graph))
        return self._step(self._compiled, state, goal, draws)


def _penalty(prior: Prior, images: Images, activations: Sequence[Activation], shard: Shard) -> Scalar:
    shared = activations if shard.ranks.alone else [attrs.evolve(part, shard=shard) for part in activations]
    return prior(images, shared)


@attrs.define(eq=False)
class _ActiveImages:
    """This rank's images of one mini-batch. The active ones still change; the others are finished."""

    shard: Shard
    images: Images  # rows of active images hold their values at the start
    rows: Labels  # positions of the active images in the mini-batch
    active: Tensor
    adam: torch.optim.Adam
    step: int  # number of completed steps
    spare: Images  # one image of the mini-batch, for a rank that has none
    active_shard: Shard

    @classmethod
    def begin(cls, images: Images, shard: Shard, learning_rate: float, state: State | None) -> _ActiveImages:
        """Start from the images of the whole mini-batch, or from a :meth:`state` saved by any number of ranks."""
        first, stop = shard.rows.start, shard.rows.stop
        moments: dict[str, Tensor] = {}
        if state is None:
            own, rows, step = images[shard.rows], torch.arange(first, stop, device=images.device), 0
        else:
            own, rows, step = state["images"].to(images)[shard.rows], state["rows"].to(images.device), state["step"]
            mine = (rows >= first) & (rows < stop)
            rows = rows[mine]
            moments = {name: state[name].to(images)[mine] for name in _MOMENTS}
        own = own.detach().clone()
        active = own[rows - first].requires_grad_()
        adam = _adam(active, learning_rate)
        if moments:
            adam.state[active] = {"step": torch.tensor(float(step), device=images.device), **moments}
        return cls(shard, own, rows, active, adam, int(step), images[:1].detach(), active_shard=shard)

    def recount(self) -> None:
        """Exchange the number of active images with the other ranks."""
        self.active_shard = self.shard.ranks.shard_of(len(self.rows))

    def retire(self, done: Bool[Tensor, " batch"], gradient: Images) -> Float[Tensor, "others channels height width"]:
        """Finish the images in ``done`` as they are; returns the gradient of the others."""
        self.images[self.rows[done] - self.shard.rows.start] = self.active.detach()[done]
        stay, moments = ~done, self.adam.state[self.active]
        learning_rate = self.adam.param_groups[0]["lr"]
        self.rows, self.active = self.rows[stay], self.active.detach()[stay].requires_grad_()
        self.adam = _adam(self.active, learning_rate)
        if moments:  # absent before the first step
            kept = {name: moments[name][stay] for name in _MOMENTS}
            self.adam.state[self.active] = {"step": moments["step"], **kept}
        return gradient[stay]

    def advance(self, gradient: Images, clamp: float | None) -> None:
        """Take one Adam step."""
        # The fused kernel reads memory linearly, and a convolution's gradient may be channels last.
        self.active.grad = gradient.contiguous()
        self.adam.step()
        if clamp is not None:
            with torch.no_grad():
                self.active.clamp_(-clamp, clamp)

    def gather(self) -> Images:
        """The current images of the whole mini-batch, on every rank."""
        own = self.images.index_copy(0, self.rows - self.shard.rows.start, self.active.detach())
        return self.shard.collect(own)

    def state(self) -> State:
        """What :meth:`begin` needs to resume, on every rank."""
        slots = self.adam.state[self.active]
        own = {"rows": self.rows, **{name: slots.get(name, torch.zeros_like(self.active)) for name in _MOMENTS}}
        whole = {name: self.active_shard.collect(tensor).clone() for name, tensor in own.items()}
        return {"images": self.gather(), "step": torch.tensor(self.step), **whole}


def _adam(images: Tensor, learning_rate: float) -> torch.optim.Adam:
    # The fused kernel avoids many small operations, which would cost more than the network.
    device = images.device.type
    return torch.optim.Adam([images], learning_rate, fused=device in ("cpu", "cuda"), capturable=device == "cuda")


@attrs.frozen(eq=False)
class NestedJournal:
    """Reports the steps of one part, from ``begin`` to ``end``, as steps of the whole."""

    outer: Journal
    begin: int
    end: int
    total: int
    around: Callable[[], State]  # returns the state of everything outside this part
    restored: State | None = None  # the state of this part when the run was interrupted

    def restore(self) -> State | None:
        """The state of this part."""
        return self.restored

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Report to the outer journal."""
        step = self.begin + (self.end - self.begin) * done // total
        self.outer.record(
            step, self.total, lambda: {**self.around(), **{_PART + name: part for name, part in state().items()}}
        )


def part_of(state: State) -> State | None:
    """The part's state in the state of the whole; None if no part was running."""
    part = {name.removeprefix(_PART): tensor for name, tensor in state.items() if name.startswith(_PART)}
    return part or None
