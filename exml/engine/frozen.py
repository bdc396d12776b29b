"""Networks as pure functions: no weight gradients, fixed batch-norm statistics."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Generator[nn.Module]:
    """Evaluation mode and no weight gradients inside the block; restores both afterwards, also after an exception.

    >>> layer = nn.Linear(2, 2)
    >>> with frozen(layer):
    ...     layer.weight.requires_grad, layer.training
    (False, False)
    >>> layer.weight.requires_grad, layer.training
    (True, True)
    """
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield module.eval().requires_grad_(False)
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)
