"""The images of one mini-batch during an inversion, with their Adam moments."""

from __future__ import annotations

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from exml.core.ranks import Shard
from exml.core.shapes import Images, Labels, State

_MOMENTS = ("exp_avg", "exp_avg_sq")


@attrs.define(eq=False)
class ActiveImages:
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
    def begin(cls, images: Images, shard: Shard, learning_rate: float, state: State | None) -> ActiveImages:
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
