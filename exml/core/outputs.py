"""What a classifier, or a part of a strategy, returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from exml.core.errors import ShapeError


def logits_of(output: Any, /, *, unwrap: bool = True) -> Tensor:
    """The logits in the output of a classifier.

    A tensor is returned as it is. In a tuple, a list, a mapping or an object with an attribute ``logits``, the logits
    are what bears that name, or else the only floating ``(batch, units)`` tensor. Without exactly one, or without
    ``unwrap``, a ShapeError lists the contents.

    >>> from exml.core.outputs import logits_of
    >>> import torch
    >>> logits_of((torch.zeros(5, 2), None)).shape
    torch.Size([5, 2])
    >>> logits_of((torch.zeros(5, 2), torch.zeros(5, 64)))
    Traceback (most recent call last):
    exml.core.errors.ShapeError: expected logits (batch, units), got tuple of (5, 2), (5, 64); remedy: wrap the module \
in one that returns only its logits
    """
    if isinstance(output, Tensor):
        return output
    parts: list[Any] = []
    if isinstance(output, Mapping | tuple | list):
        parts = list(output.values() if isinstance(output, Mapping) else output)
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 2]
    found = [named] if isinstance(named, Tensor) else tensors
    if len(found) != 1 or not unwrap:
        listed = ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
        raise ShapeError(
            expected="logits (batch, units)",
            got=type(output).__name__ + f" of {listed}" * bool(parts),
            remedy="wrap the module in one that returns only its logits",
        )
    return found[0]


def is_a(value: object, cls: type) -> bool:
    """``isinstance`` for a value of a user's part, which may break its annotation."""
    return isinstance(value, cls)


def described(value: object, /) -> str:
    """What a part returned, for an error: shape and type of a tensor, the class of anything else.

    >>> import torch
    >>> from exml.core.outputs import described
    >>> described(torch.zeros(2, 3)), described(0.5), described(None)
    ('(2, 3) torch.float32', 'float', 'None')
    """
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    return "None" if value is None else type(value).__name__
