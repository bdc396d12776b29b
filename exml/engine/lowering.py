"""A frozen network in the form that its device runs fastest: batch norm folded, channels last."""

from __future__ import annotations

import copy
import linecache
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import attrs
import torch
from jaxtyping import config
from torch import fx, nn
from torch.fx import graph_module

from exml.core.activation import Activation, record_activations
from exml.core.shapes import Images, Logits
from exml.engine._folding import Tap, fold
from exml.engine._frozen_ops import out_of_place
from exml.engine.frozen import frozen

Network: TypeAlias = Callable[[Images], tuple[Logits, Sequence[Activation]]]
"""A frozen network: logits, and what entered its batch-norm layers if that was asked for."""

_CHANNELS_LAST = (torch.float32, torch.bfloat16, torch.float16)
"""What convolutions with channels last are made for; in float64 they are slower than without."""
_TOLERANCE = 1e-3
"""How far lowered logits may be from the others, relative to the largest: rounding, and no more."""


@contextmanager
def lowered(module: nn.Module, probe: Images) -> Generator[nn.Module]:
    """The module in evaluation mode without weight gradients, as fast as its device runs it, inside the block.

    What runs is a copy in which every batch-norm layer that follows a convolution is part of it, with weights and
    activations channels last. Its logits are those of the module but for rounding: they are compared on ``probe``. A
    module that cannot be traced, or whose copy answers otherwise, runs as it is. The module itself is the same
    after the block, whatever happens.

    Args:
        module: in any mode.
        probe: ``(batch, channels, height, width)``, two or more images in the module's units, to compare on.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.randn(2, 3, 8, 8)
    >>> with lowered(net, images) as fast:
    ...     torch.allclose(fast(images), net(images), atol=1e-5), len(list(fast.children()))
    (True, 4)
    """
    with frozen(module):
        copied = _lower(module, probe, record=False)
        try:
            yield module if copied is None else copied[0]
        finally:
            _forget(copied)


@contextmanager
def recorded(module: nn.Module, probe: Images, *, record: bool) -> Generator[Network]:
    """As :func:`lowered`, with what enters each batch-norm layer that has running statistics.

    Args:
        module: in any mode.
        probe: see :func:`lowered`.
        record: False: no activations are given.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.randn(2, 3, 8, 8)
    >>> with recorded(net, images, record=True) as network:
    ...     logits, (activation,) = network(images)
    >>> activation.layer, torch.allclose(activation.input, net[0](images), atol=1e-5)
    ('1', True)
    """
    with frozen(module), ExitStack() as stack:
        copied = _lower(module, probe, record=record)
        stack.callback(_forget, copied)
        if copied is not None:
            yield Lowered(*copied)
            return
        found: Sequence[Activation] = stack.enter_context(record_activations(module)) if record else ()
        yield lambda images: (module(images), found)


@attrs.frozen(eq=False)
class Lowered:
    """A :data:`Network` whose graph is a pure function of the images, so that it can be compiled.

    Args:
        graph: gives logits, or with taps logits and what is recorded for each.
        taps: in the order of the forward pass.
    """

    graph: nn.Module
    taps: tuple[Tap, ...]

    def __call__(self, images: Images) -> tuple[Logits, Sequence[Activation]]:
        """Logits and activations of images in the module's units."""
        if not self.taps:
            return self.graph(images), ()
        logits, tapped = self.graph(images)
        pairs = zip(self.taps, tapped, strict=True)
        return logits, [
            Activation(tap.layer, values, tap.running_mean, tap.running_var, tap.scale, tap.shift, token)
            for tap, (values, token) in pairs
        ]


def _lower(module: nn.Module, probe: Images, *, record: bool) -> tuple[fx.GraphModule, tuple[Tap, ...]] | None:
    """A lowered copy; None for a module that cannot be traced or copied, or whose copy answers otherwise."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    if any(getattr(part, name) for part in module.modules() for name in hooks):
        return None  # a trace runs them once, at its own time
    try:
        with warnings.catch_warnings(), _unchecked():
            warnings.simplefilter("ignore")  # what a trace says of a module matters only if it is used
            root = copy.deepcopy(module).eval()
            traced = fx.Tracer().trace(root)
        if record and not out_of_place(root, traced):
            return None
        taps = fold(root, traced, record=record)
        graph = fx.GraphModule(root, traced)
        if next((p.dtype for p in graph.parameters()), None) in _CHANNELS_LAST:
            graph = graph.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        graph.eval().requires_grad_(False)
        with torch.no_grad():
            wanted, answer = module(probe), graph(probe)
    except Exception:  # whatever other people's forward raises: they run as they are
        return None
    got = answer[0] if taps else answer
    close = wanted.shape == got.shape and (wanted - got).abs().max() <= _TOLERANCE * wanted.abs().max()
    return (graph, taps) if close else None


@contextmanager
def _unchecked() -> Generator[None]:
    """A trace passes what are no tensors: a program that checks annotations at run time would refuse them."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def _forget(copied: tuple[fx.GraphModule, tuple[Tap, ...]] | None) -> None:
    """Take the source code of a graph out of the caches that keep it for tracebacks, which would grow for ever."""
    if copied is not None:
        name = type(copied[0]).forward.__code__.co_filename
        linecache.cache.pop(name, None)
        graph_module._loader.eval_cache.pop(name, None)  # pyright: ignore[reportPrivateUsage]
