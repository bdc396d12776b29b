"""Batch norm, recognized by its running statistics, and the inputs of such layers, recorded in a forward pass."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.moments import var_mean
from exml.core.ranks import Shard


def running_statistics(part: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The tensors ``running_mean`` and ``running_var`` ``(channels,)`` that a module itself holds; None without them.

    They make a module count as batch norm, whatever its class.

    >>> import torch
    >>> from exml.core.activation import running_statistics
    >>> running_statistics(torch.nn.SyncBatchNorm(3))[0].shape, running_statistics(torch.nn.GroupNorm(1, 3))
    (torch.Size([3]), None)
    """
    held = {**vars(part), **dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
    mean, var = held.get("running_mean"), held.get("running_var")
    if not (isinstance(mean, Tensor) and isinstance(var, Tensor)) or mean.ndim != 1 or mean.shape != var.shape:
        return None
    return mean, var


def batch_norm_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a module with :func:`running_statistics`, by qualified name.

    >>> import torch
    >>> from exml.core.activation import batch_norm_layers
    >>> [name for name, _ in batch_norm_layers(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)))]
    ['1']
    """
    return ((name, part) for name, part in module.named_modules() if running_statistics(part) is not None)


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

    >>> import torch
    >>> from exml.priors import Activation, statistics_of
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
    """Record the input of every layer with running statistics; each forward pass refills the list.

    A layer that is called twice in a pass appears twice. An input whose second dimension is not that of the channels is
    not recorded. The module gets copies of its arguments. If a pass overwrites the input of a layer, it is repeated
    with a copy of that input.

    >>> import torch
    >>> from exml.priors import record_activations
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)).eval()
    >>> with record_activations(net) as activations:
    ...     _ = net(torch.zeros(4, 3))
    ...     [(activation.layer, tuple(activation.input.shape)) for activation in activations]
    [('0', (4, 3))]
    """
    recorded: list[Activation] = []
    versions: list[int] = []
    overwritten: set[str] = set()
    given: tuple[Any, ...] = ()

    def begin(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal given
        recorded.clear()
        versions.clear()
        given = args
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)

    def record(name: str, statistics: tuple[Tensor, Tensor], _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        values = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if values is not None and values.ndim > 1 and values.shape[1] == len(statistics[0]):
            recorded.append(Activation(name, values.clone() if name in overwritten else values, *statistics))
            versions.append(recorded[-1].recorded._version)

    def finish(part: nn.Module, _: Any, kwargs: dict[str, Any], output: Any) -> Any:
        pairs = zip(recorded, versions, strict=True)
        changed = {activation.layer for activation, version in pairs if activation.recorded._version != version}
        overwritten.update(changed)
        return part(*given, **kwargs) if changed else output

    with ExitStack() as hooks:
        hooks.enter_context(module.register_forward_pre_hook(begin))
        for name, part in module.named_modules():
            if (statistics := running_statistics(part)) is not None:
                mean, var = statistics
                kept = mean.detach().clone(), var.detach().clone()  # a forward pass may change them
                hooks.enter_context(part.register_forward_pre_hook(partial(record, name, kept), with_kwargs=True))
        hooks.enter_context(module.register_forward_hook(finish, with_kwargs=True))
        yield recorded
