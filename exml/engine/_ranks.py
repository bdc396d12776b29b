"""What several ranks share of a step: the augmentation's draws, the gradient, and the statistics of batch norm.

Unlike ``nn.SyncBatchNorm``, :func:`synchronized` works on any device and leaves the student's modules in place.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from exml.core.activation import BATCH_NORM
from exml.core.moments import add_line, moments
from exml.core.ranks import Shard
from exml.core.shapes import Images, Scalar
from exml.protocols import Augmentation


@runtime_checkable
class _Chained(Protocol):
    @property
    def augmentations(self) -> tuple[Augmentation, ...]: ...


@runtime_checkable
class _SeparateDraws(Protocol):
    """An augmentation that draws one column of random numbers per image, and applies them in a second call."""

    def draw(self, count: int, generator: torch.Generator, /) -> Tensor: ...

    def apply(self, images: Images, draws: Tensor, /) -> Images: ...


def augment(augmentation: Augmentation | None, images: Images, draws: torch.Generator, shard: Shard) -> Images:
    """Augment this rank's rows as part of the whole batch; ``draws`` is used in the same way on every rank."""
    if augmentation is None:
        return images
    if shard.ranks.alone:
        return augmentation(images, draws)
    if isinstance(augmentation, _Chained):
        for part in augmentation.augmentations:
            images = augment(part, images, draws, shard)
        return images
    if isinstance(augmentation, _SeparateDraws):
        return augmentation.apply(images, augmentation.draw(shard.total, draws)[:, shard.rows])
    # The rows of other ranks are black; every image has its own parameters, so they do not matter.
    before, after = shard.rows.start, shard.total - shard.rows.stop
    padded = functional.pad(images, (0, 0, 0, 0, 0, 0, before, after))
    return augmentation(padded, draws)[shard.rows]


def backward(loss: Scalar, student: nn.Module, shard: Shard) -> Scalar:
    """Run the backward pass of this rank's mean loss; gradients and the returned loss are means over all rows."""
    own = loss * (shard.own / shard.total)
    own.backward()
    flat = [_flat(parameter) for parameter in student.parameters() if parameter.grad is not None]
    whole = torch.cat([*flat, own.detach().view(1)])
    shard.ranks.add(whole)
    *parts, value = whole.split([*map(len, flat), 1])
    torch._foreach_copy_(flat, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return value.view(())


def _flat(parameter: nn.Parameter) -> Tensor:
    """A view of the gradient's values in memory order, which is the same on every rank."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_contiguous() and not gradient.is_contiguous(memory_format=torch.channels_last):
        gradient = parameter.grad = gradient.contiguous()
    return gradient.as_strided((gradient.numel(),), (1,))


@contextmanager
def synchronized(student: nn.Module, shard: Shard) -> Generator[None]:
    """Inside the block, batch-norm layers in training mode normalize by the statistics of the whole mini-batch."""
    layers = [] if shard.ranks.alone else [part for part in student.modules() if isinstance(part, BATCH_NORM)]
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer, shard)  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, shard: Shard, values: Tensor) -> Tensor:
    """``_BatchNorm.forward`` with the moments of all ranks."""
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
    """Batch norm by the moments of all ranks; also returns the mean and the biased variance."""

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
        # The gradient with mean and variance held constant, and the sums that their own gradients need.
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
    """Number of values per channel on all ranks."""
    return values.numel() // values.shape[1] // len(values) * shard.total
