"""Batch norm in training mode over the rows of all ranks.

torch has ``nn.SyncBatchNorm`` for accelerators alone, and it would change the student's modules; here they stay what
they are, on any device.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from exml.core.activation import BATCH_NORM
from exml.core.moments import add_line, moments
from exml.core.ranks import Shard


@contextmanager
def synchronized(student: nn.Module, shard: Shard) -> Generator[None]:
    """Inside the block batch-norm layers in training mode normalise by the statistics of the whole mini-batch.

    Args:
        student: its BatchNorm1d/2d/3d layers are given a forward of their own.
        shard: how the rows of every mini-batch lie on the ranks, each of which has some.
    """
    layers = [] if shard.ranks.alone else [part for part in student.modules() if isinstance(part, BATCH_NORM)]
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer, shard)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, shard: Shard, values: Tensor) -> Tensor:
    """What ``_BatchNorm.forward`` does, with the moments of all ranks."""
    if not layer.training:
        return type(layer).forward(layer, values)
    output, mean, var = _Normalize.apply(values, layer.weight, layer.bias, layer.eps, shard)
    if layer.track_running_stats and layer.running_mean is not None:
        layer.num_batches_tracked.add_(1)
        share = layer.momentum if layer.momentum is not None else 1 / int(layer.num_batches_tracked)
        count = _count(values, shard)
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
        layer.running_var.lerp_((var * (count / max(count - 1, 1))).to(layer.running_var.dtype), share)
    return output


class _Normalize(torch.autograd.Function):
    """Batch norm by the moments of all ranks; gives mean and biased variance beside it."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, shard: Shard
    ) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = shard.moments(*moments(values))
        ctx.save_for_backward(values, weight, mean, var)
        ctx.eps, ctx.shard = eps, shard
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(values, mean, var, weight, bias, training=False, eps=eps), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, weight, mean, var = ctx.saved_tensors
        # The gradient as if mean and variance were constants, and the sums that their own gradients need.
        passing, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], values, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack((to_weight, to_bias))
        ctx.shard.ranks.add(sums)
        scale = (var + ctx.eps).rsqrt()
        slope = (scale if weight is None else scale * weight) / _count(values, ctx.shard)
        factor = -slope * scale * sums[0]
        offset = -slope * sums[1] - factor * mean
        gradient = add_line(values, factor.to(values.dtype), offset.to(values.dtype), passing)
        affine = (None, None) if weight is None else (to_weight, to_bias)
        return gradient, *affine, None, None


def _count(values: Tensor, shard: Shard) -> int:
    """Values of one channel on all ranks."""
    return values.numel() // values.shape[1] // len(values) * shard.total
