"""One gradient for all ranks: that of the whole mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exml.core.ranks import Shard
from exml.core.shapes import Scalar


def backward(loss: Scalar, student: nn.Module, shard: Shard) -> Scalar:
    """The backward pass of a loss that is the mean over this rank's rows; gives that over all rows.

    Every parameter that the loss depends on has afterwards the gradient of the mean over the rows of all ranks, the
    same bits on every rank. All gradients travel at once, with the loss.
    """
    own = loss * (shard.own / shard.total)
    own.backward()
    flat = [_flat(parameter) for parameter in student.parameters() if parameter.grad is not None]
    whole = torch.cat([*flat, own.detach().view(1)])
    shard.ranks.add(whole)
    *parts, value = whole.split([*map(len, flat), 1])
    torch._foreach_copy_(flat, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return value.view(())


def _flat(parameter: nn.Parameter) -> Tensor:
    """A view of the gradient's values in the order in which they lie in memory, which is the same on every rank."""
    gradient = parameter.grad
    assert gradient is not None
    if not gradient.is_contiguous() and not gradient.is_contiguous(memory_format=torch.channels_last):
        gradient = parameter.grad = gradient.contiguous()
    return gradient.as_strided((gradient.numel(),), (1,))
