"""What several ranks share of a step: the augmentation's draws, the gradient, and the statistics of batch norm.

Unlike ``nn.SyncBatchNorm``, :func:`synchronized` works on any device and leaves the student's modules in place.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from exml.core.activation import batch_norm_layers
from exml.core.errors import ExmlWarning
from exml.core.moments import add_line, moments
from exml.core.ranks import Shard
from exml.core.shapes import Images, Scalar
from exml.protocols import Augmentation

_RUNNING, _AFFINE, _SETTINGS = ("running_mean", "running_var"), ("weight", "bias"), ("training", "momentum", "eps")
_PARAMETERS = {
    functional.batch_norm: ("input", *_RUNNING, *_AFFINE, *_SETTINGS),
    torch.batch_norm: ("input", *_AFFINE, *_RUNNING, *_SETTINGS, "cudnn_enabled"),
}


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


def synchronized(student: nn.Module, shard: Shard) -> AbstractContextManager[object]:
    """For forward passes in which batch norm in training mode normalizes by the statistics of the whole mini-batch.

    It intercepts :func:`torch.nn.functional.batch_norm`. It replaces no forward but that of ``nn.SyncBatchNorm``, which
    has its own process group. After the first pass, an ExmlWarning names the layers that updated their running
    statistics in another way.
    """
    replaced = [part for part in student.modules() if type(part).forward is nn.SyncBatchNorm.forward]
    return nullcontext() if shard.ranks.alone and not replaced else _Synchronized(student, shard, replaced)


class _Synchronized(TorchFunctionMode):
    def __init__(self, student: nn.Module, shard: Shard, replaced: Sequence[Any]) -> None:
        super().__init__()
        self._shard, self._replaced = shard, replaced
        self._layers = {} if shard.ranks.alone else dict[str, Any](batch_norm_layers(student))
        self._before = {name: layer.running_mean.clone() for name, layer in self._layers.items()}
        self._updated: set[int] = set()

    def __enter__(self) -> _Synchronized:
        for layer in self._replaced:
            layer.forward = partial(nn.BatchNorm2d.forward, layer)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for layer in self._replaced:
            del layer.forward
        means = {name: self._layers[name].running_mean for name in self._before if self._shard.ranks.leader}
        changed = [name for name, mean in means.items() if not torch.equal(mean, self._before[name])]
        if apart := [name for name in changed if id(means[name]) not in self._updated]:
            reason = f"{', '.join(map(repr, apart[:3]))} do not call torch.nn.functional.batch_norm in training mode"
            warnings.warn(f"each rank has its own batch statistics: {reason}", ExmlWarning, stacklevel=2)
        self._before.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: dict[str, Any] = dict(zip(_PARAMETERS.get(func, ()), args, strict=False)) | (kwargs or {})
        if self._shard.ranks.alone or not given.get("training") or func not in _PARAMETERS:
            return func(*args, **(kwargs or {}))
        values, mean, var = given["input"], given.get("running_mean"), given.get("running_var")
        affine, eps = (given.get("weight"), given.get("bias")), given.get("eps", 1e-5)
        output, *moments = _Normalize.apply(values, *affine, eps, self._shard)
        if mean is not None and var is not None:
            count = _count(values, self._shard)
            for running, own, factor in zip((mean, var), moments, (1, count / max(count - 1, 1)), strict=True):
                with torch.no_grad():
                    running.lerp_((own * factor).to(running.dtype), given.get("momentum", 0.1))
            self._updated.add(id(mean))
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
        affine = zip((to_weight, to_bias), ctx.needs_input_grad[1:3], strict=True)
        return gradient, *(part if needed else None for part, needed in affine), None, None


def _count(values: Tensor, shard: Shard) -> int:
    """Number of values per channel on all ranks."""
    return values.numel() // values.shape[1] // len(values) * shard.total
