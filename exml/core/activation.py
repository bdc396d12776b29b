"""The inputs of an expert's batch-norm layers, recorded in its forward pass."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.moments import var_mean
from exml.core.ranks import Shard

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@attrs.frozen(eq=False)
class Activation:
    """The input of one batch-norm layer in the last forward pass, with the statistics of the training data.

    An engine that folds the layer into the preceding convolution records the layer's output instead of its input:
    ``input = recorded * scale + shift``. Running statistics, scale and shift are ``(channels,)``.

    Args:
        layer: the qualified name of the layer in its module.
        recorded: ``(batch, channels, ...)``, with its graph; the input itself if there is no ``scale``.
        token: carries the gradient of :meth:`var_mean` to the layer, from :func:`exml.core.moments.tap`.
        shard: the position of these rows in a batch that several ranks share.
    """

    layer: str
    recorded: Tensor
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    token: Tensor | None = None
    shard: Shard | None = None

    @property
    def input(self) -> Tensor:
        """``(batch, channels, ...)``, the input of the layer with its graph."""
        if self.scale is None or self.shift is None:
            return self.recorded
        axes = (-1, *(1,) * (self.recorded.ndim - 2))
        return self.recorded * self.scale.view(axes) + self.shift.view(axes)

    def var_mean(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Biased variance and mean of each channel of the input, over all positions and images of all ranks."""
        return statistics_of([self])


def statistics_of(activations: Sequence[Activation]) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """:meth:`Activation.var_mean` of at least one layer of one forward pass, concatenated in order.

    >>> values = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> layer = Activation("bn", values, torch.zeros(2), torch.ones(2))
    >>> [row.tolist() for row in statistics_of([layer, layer])]
    [[1.0, 0.0, 1.0, 0.0], [2.0, 0.0, 2.0, 0.0]]
    """
    moments = [var_mean(activation.recorded, activation.token) for activation in activations]
    var, mean = (torch.cat(rows) for rows in zip(*moments, strict=True))
    shard = activations[0].shard
    if shard is not None:
        var, mean = shard.moments(var, mean)  # one exchange for all layers
    if all(activation.scale is None for activation in activations):
        return var, mean
    scale = torch.cat([torch.ones_like(a.running_mean) if a.scale is None else a.scale for a in activations])
    shift = torch.cat([torch.zeros_like(a.running_mean) if a.shift is None else a.shift for a in activations])
    return var * scale.square(), torch.addcmul(shift, mean, scale)


@contextmanager
def record_activations(module: nn.Module) -> Generator[list[Activation]]:
    """Record the input of every BatchNorm1d/2d/3d layer with running statistics; each forward pass refills the list.

    A layer that is called twice in a pass appears twice.

    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    >>> with record_activations(net) as activations:
    ...     _ = net(torch.zeros(4, 3))
    ...     [(activation.layer, tuple(activation.input.shape)) for activation in activations]
    [('0', (4, 3))]
    """
    recorded: list[Activation] = []

    def record(name: str, part: Any, inputs: tuple[Tensor, ...]) -> None:
        recorded.append(Activation(name, inputs[0], part.running_mean, part.running_var))

    def clear(*_: Any) -> None:
        recorded.clear()

    with ExitStack() as hooks:
        hooks.enter_context(module.register_forward_pre_hook(clear))
        for name, part in module.named_modules():
            if isinstance(part, BATCH_NORM) and part.running_mean is not None:
                hooks.enter_context(part.register_forward_pre_hook(partial(record, name)))
        yield recorded
