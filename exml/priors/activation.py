"""What enters the batch-norm layers of an expert, recorded without computing anything."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs
from torch import Tensor, nn


@attrs.frozen(eq=False)
class Activation:
    """The input of one batch-norm layer in the last forward pass, with the statistics of the training data.

    Args:
        layer: the qualified name of the layer in its module.
        input: ``(batch, channels, ...)``, with its graph.
        running_mean: ``(channels,)``.
        running_var: ``(channels,)``.
    """

    layer: str
    input: Tensor
    running_mean: Tensor
    running_var: Tensor


@contextmanager
def record_activations(module: nn.Module) -> Generator[list[Activation]]:
    """Record the input of every BatchNorm1d/2d/3d layer with running statistics; each forward pass fills the list anew.

    A layer that one pass calls twice is there twice. The hooks are gone after the block, also after an exception.

    >>> import torch
    >>> net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    >>> with record_activations(net) as activations:
    ...     _ = net(torch.zeros(4, 3))
    ...     [(activation.layer, tuple(activation.input.shape)) for activation in activations]
    [('0', (4, 3))]
    """
    recorded: list[Activation] = []
    layers = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.running_mean is not None
    }

    def clear(_module: nn.Module, _inputs: Any) -> None:
        recorded.clear()

    def recorder(name: str) -> Any:
        def record(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            mean, var = part.running_mean, part.running_var
            assert isinstance(mean, Tensor)
            assert isinstance(var, Tensor)
            recorded.append(Activation(name, inputs[0], mean, var))

        return record

    handles = [module.register_forward_pre_hook(clear)]
    handles += [part.register_forward_pre_hook(recorder(name)) for name, part in layers.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
