"""Networks of layers in sequence, written out in a card."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from exml.core.errors import SettingError, UnknownNameError, nearest
from exml.models.registry import register

_ROOMS = """
activation batchnorm channelshuffle conv dropout flatten instancenorm linear normalization padding pixelshuffle pooling
upsampling
"""
_OTHERS = ("Bilinear", "MultiheadAttention", "SyncBatchNorm", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d")


@register("sequential")
def sequential(layers: Sequence[Any] | Mapping[str, Any]) -> nn.Module:
    """A :class:`torch.nn.Sequential` of layers of :mod:`torch.nn`.

    Args:
        layers: a list, whose layers have the names 0, 1, 2 ..., or a mapping with the name of each layer. A layer is
            the name of a class in :mod:`torch.nn`, such as ``relu`` or ``ReLU``, or a mapping with one key, that name,
            and its arguments: a list, a mapping by name, or a single number.

    >>> from exml.models import sequential
    >>> sequential([{"conv2d": [1, 4, 3]}, "relu", {"max_pool2d": 2}, "flatten", {"linear": [36, 10]}])[4]
    Linear(in_features=36, out_features=10, bias=True)
    >>> list(sequential({"flatten": "flatten", "fc1": {"linear": [4, 2]}}).state_dict())
    ['fc1.weight', 'fc1.bias']
    """
    named = layers.items() if isinstance(layers, Mapping) else enumerate(layers)
    network = nn.Sequential()
    for name, layer in named:
        network.add_module(str(name), _layer(name, layer))
    return network


def _layer(name: str | int, layer: Any) -> nn.Module:
    where = f"layer {name!r} of sequential"
    kind, given = next(iter(layer.items())) if isinstance(layer, Mapping) and len(layer) == 1 else (layer, None)
    if not isinstance(kind, str):
        remedy = 'write "relu", or {"conv2d": [1, 16, 3]}'
        raise SettingError(
            expected=f"a class of torch.nn and its arguments for {where}", got=repr(layer), remedy=remedy
        )
    known = _layers()
    make = known.get(kind.lower().replace("_", ""))
    if make is None:
        listed = ", ".join(known[near].__name__ for near in nearest(kind, known)[:5])
        remedy = "take one of those, or register the architecture with exml.models.register"
        raise UnknownNameError(
            expected=f"a layer of torch.nn such as {listed} for {where}", got=repr(kind), remedy=remedy
        )
    arguments = [] if given is None else [given] if isinstance(given, bool | int | float | str) else given
    try:
        signature = inspect.signature(make)
        named = isinstance(arguments, Mapping)
        bound = signature.bind(**arguments) if named else signature.bind(*map(_tuple, arguments))
        placed = {"device", "dtype"} & bound.arguments.keys()
        if placed:
            raise TypeError(f"{min(placed)} cannot be set")
        return make(*bound.args, **bound.kwargs)
    except Exception as error:  # a constructor may raise anything for arguments that it does not expect
        expected = f"arguments of torch.nn.{make.__name__} for {where}"
        remedy = "correct them; the documentation of PyTorch lists them"
        raise SettingError(expected=expected, got=f"{given!r} ({error})", remedy=remedy) from error


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


@cache
def _layers() -> dict[str, Callable[..., nn.Module]]:
    """The classes of :mod:`torch.nn` that map one tensor to one, by name in lower case."""
    rooms = {f"torch.nn.modules.{room}" for room in _ROOMS.split()}
    found = {name: getattr(nn, name) for name in dir(nn)}
    return {
        name.lower(): part
        for name, part in found.items()
        if isinstance(part, type) and part.__module__ in rooms and not name.startswith("Lazy") and name not in _OTHERS
    }
