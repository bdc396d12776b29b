"""Variance and mean of each channel, in one pass forward and one backward.

``torch.var_mean`` over all dimensions but the channels takes eight times as long on a CPU where the channels lie
innermost (``channels_last``), and its gradient is four operations over the whole activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_DEVICES, _PRECISE = ("cpu", "cuda"), (torch.float32, torch.float64)


class _VarMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The first half of batch norm in training mode; without running statistics there is nothing to update.
        mean, var = torch.batch_norm_update_stats(values, None, None, 0.0)
        ctx.save_for_backward(values, mean)
        return var, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # d var / d x = 2 (x - mean) / n and d mean / d x = 1 / n: one multiple of x and one constant for each channel.
        values, mean = ctx.saved_tensors
        to_var, to_mean = gradients
        count = values.numel() // values.shape[1]
        factor = to_var * (2 / count)
        offset = to_mean / count - factor * mean
        axes = (-1, *(1,) * (values.ndim - 2))
        return torch.addcmul(offset.view(axes), values, factor.view(axes))


def var_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean ``(channels,)`` of ``(batch, channels, ...)``, differentiable once.

    Values of half precision are summed in float32, and so are their statistics.
    """
    if values.device.type in _DEVICES and values.dtype in _PRECISE and not torch.compiler.is_compiling():
        return _VarMean.apply(values)
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.var_mean(precise, [0, *range(2, values.ndim)], correction=0)
