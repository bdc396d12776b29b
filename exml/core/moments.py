"""Variance and mean of each channel, in one pass forward and one backward.

On a CPU, ``torch.var_mean`` takes eight times as long in ``channels_last``, and its gradient is four operations over
the whole activation. Here the gradient is ``factor · x + offset`` per channel, and a :func:`tap` adds it to the
gradient that passes through that point of the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_WIDTH = 128
_DEVICES, _PRECISE = ("cpu", "cuda"), (torch.float32, torch.float64)


class _Tap(torch.autograd.Function):
    """The values, and a token ``(2, channels)`` whose gradient is factor and offset."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values)
        precise = torch.promote_types(values.dtype, torch.float32)
        return values.view_as(values), torch.zeros(2, values.shape[1], dtype=precise, device=values.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        passing, line = gradients
        if line is None:
            return passing
        (values,) = ctx.saved_tensors
        factor, offset = line.to(values.dtype).unbind()
        if passing is None:
            passing = offset.new_zeros(()).expand_as(values)
        return add_line(values, factor, offset, passing)


class _Moments(torch.autograd.Function):
    """Variance and mean, with the gradient of the token."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        var, mean = moments(values)
        ctx.save_for_backward(mean)
        ctx.count = values.numel() // values.shape[1]
        return var, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # d var / d x = 2 (x - mean) / n and d mean / d x = 1 / n.
        (mean,) = ctx.saved_tensors
        to_var, to_mean = gradients
        factor = to_var * (2 / ctx.count)
        return torch.stack((factor, torch.addcmul(to_mean / ctx.count, factor, mean, value=-1))), None


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean ``(channels,)`` of ``(batch, channels, ...)``, in float32 or float64; no gradients."""
    if values.device.type not in _DEVICES or values.dtype not in _PRECISE:
        precise = values.to(torch.promote_types(values.dtype, torch.float32))
        return torch.var_mean(precise, [0, *range(2, values.ndim)], correction=0)
    # The first half of batch norm in training mode, without running statistics to update.
    rows = _rows(values)
    mean, var = torch.batch_norm_update_stats(values if rows is None else rows, None, None, 0.0)
    if rows is not None:
        means = mean.view(_copies(values), -1)
        mean = means.mean(0)
        var = var.view_as(means).mean(0) + (means - mean).square().mean(0)
    return var, mean


def add_line(values: Tensor, factor: Tensor, offset: Tensor, passing: Tensor) -> Tensor:
    """``passing + factor · values + offset``, with one ``factor`` and ``offset`` per channel; modifies no argument."""
    rows, copies = _rows(values), _copies(values)
    if rows is None or (others := _rows(passing)) is None:
        factor, offset = (line.view(-1, *(1,) * (values.ndim - 2)) for line in (factor, offset))
        return torch.addcmul(passing, values, factor).add_(offset)
    added = torch.addcmul(others, rows, factor.repeat(copies)).add_(offset.repeat(copies))
    batch, channels, height, width = values.shape
    return added.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _copies(values: Tensor) -> int:
    """The positions per row of a few hundred values, which vectorizes better than a row per position."""
    positions, channels = values.numel() // values.shape[1], values.shape[1]
    copies = 1
    while copies * channels < _WIDTH and positions % (2 * copies) == 0:
        copies *= 2
    return copies


def _rows(values: Tensor) -> Tensor | None:
    """Values in ``channels_last`` on a CPU as a matrix, several positions per row; None for other values."""
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    if not last or values.device.type != "cpu" or not values.numel():
        return None
    return values.permute(0, 2, 3, 1).reshape(-1, _copies(values) * values.shape[1])


def tap(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(batch, channels, ...)`` unchanged, and a token for their :func:`var_mean`."""
    return _Tap.apply(values)


def var_mean(values: Tensor, token: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Biased variance and mean ``(channels,)`` of ``(batch, channels, ...)``, differentiable once.

    Both are float32 for half precision. With the ``token`` of a :func:`tap`, the gradient needs no separate pass.
    """
    if token is None:
        values, token = tap(values)
    return _Moments.apply(token, values.detach())
