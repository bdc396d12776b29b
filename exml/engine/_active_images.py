"""The images of a mini-batch on their way through an inversion, with Adam's moments of them."""

from __future__ import annotations

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from exml.core.ranks import Shard
from exml.core.shapes import Images, Labels, State

_MOMENTS = ("exp_avg", "exp_avg_sq")


@attrs.define(eq=False)
class Flight:
    """This rank's images of one mini-batch; those in ``rows`` are still changing.

    Args:
        shard: which rows of the mini-batch are this rank's.
        landed: ``(shard.own, channels, height, width)``, the finished ones as they are, the others as they were.
        rows: positions in the mini-batch of the others.
        active: the others.
        adam: of ``active``.
        step: steps made.
        spare: one image of the mini-batch, for a rank that has none of its own.
        flying: how the images that are still changing lie on the ranks.
    """

    shard: Shard
    landed: Images
    rows: Labels
    active: Tensor
    adam: torch.optim.Adam
    step: int
    spare: Images
    flying: Shard

    @classmethod
    def begin(cls, images: Images, shard: Shard, learning_rate: float, state: State | None) -> Flight:
        """From the images of the whole mini-batch, or from what :meth:`state` gave, on any number of ranks."""
        first, stop = shard.rows.start, shard.rows.stop
        moments: dict[str, Tensor] = {}
        if state is None:
            landed, rows, step = images[shard.rows], torch.arange(first, stop, device=images.device), 0
        else:
            landed, rows, step = state["images"].to(images)[shard.rows], state["rows"].to(images.device), state["step"]
            mine = (rows >= first) & (rows < stop)
            rows = rows[mine]
            moments = {name: state[name].to(images)[mine] for name in _MOMENTS}
        landed = landed.detach().clone()
        active = landed[rows - first].requires_grad_()
        flight = cls(
            shard, landed, rows, active, _adam(active, learning_rate), int(step), images[:1].detach(), flying=shard
        )
        if moments:
            flight.adam.state[active] = {"step": torch.tensor(float(step), device=images.device), **moments}
        return flight

    def count(self) -> None:
        """Tell the other ranks how many images are still changing here."""
        self.flying = self.shard.ranks.shard_of(len(self.rows))

    def land(self, done: Bool[Tensor, " batch"], gradient: Images) -> Float[Tensor, "others channels height width"]:
        """Take images out as they are; returns the gradient of the others."""
        self.landed[self.rows[done] - self.shard.rows.start] = self.active.detach()[done]
        stay, moments = ~done, self.adam.state[self.active]
        learning_rate = self.adam.param_groups[0]["lr"]
        self.rows, self.active = self.rows[stay], self.active.detach()[stay].requires_grad_()
        self.adam = _adam(self.active, learning_rate)
        if moments:  # none before the first step
            kept = {name: moments[name][stay] for name in _MOMENTS}
            self.adam.state[self.active] = {"step": moments["step"], **kept}
        return gradient[stay]

    def advance(self, gradient: Images, clamp: float | None) -> None:
        """One step of Adam."""
        # The fused kernel reads memory in its order, and a convolution's gradient may have its channels last.
        self.active.grad = gradient.contiguous()
        self.adam.step()
        if clamp is not None:
            with torch.no_grad():
                self.active.clamp_(-clamp, clamp)

    def images(self) -> Images:
        """The whole mini-batch, as it is now, on every rank."""
        own = self.landed.index_copy(0, self.rows - self.shard.rows.start, self.active.detach())
        return self.shard.collect(own)

    def state(self) -> State:
        """All that :meth:`begin` needs to go on from here, on every rank."""
        slots = self.adam.state[self.active]
        moments = {name: slots.get(name, torch.zeros_like(self.active)) for name in _MOMENTS}
        collected = {"rows": self.rows, **moments}
        whole = {name: self.flying.collect(tensor).clone() for name, tensor in collected.items()}
        return {"images": self.images(), "step": torch.tensor(self.step), **whole}


def _adam(images: Tensor, learning_rate: float) -> torch.optim.Adam:
    # One fused kernel where there is one: the steps of many small tensors would cost more than the network.
    device = images.device.type
    return torch.optim.Adam([images], learning_rate, fused=device in ("cpu", "cuda"), capturable=device == "cuda")
