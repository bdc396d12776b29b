"""Frozen networks in the form that runs fastest: batch norm folded, channels last."""

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
"""A frozen network: returns logits, and the inputs of its batch-norm layers if they are recorded."""

_CHANNELS_LAST = (torch.float32, torch.bfloat16, torch.float16)
"""Types for which convolutions are faster with channels last; in float64 they are slower."""
_TOLERANCE = 1e-3
"""The largest difference of lowered logits, relative to the largest logit; allows for rounding only."""


@contextmanager
def lowered(module: nn.Module, probe: Images) -> Generator[nn.Module]:
    """A fast form of the module inside the block, in evaluation mode and without weight gradients.

    It is a copy with channels-last weights in which every batch-norm layer that follows a convolution is folded into
    it. Its logits are those of the module up to rounding, which is verified on ``probe``. A module that cannot be
    traced, or whose copy has other logits, runs unchanged. The module itself is restored after the block, also after
    an exception.

    Args:
        module: in any mode.
        probe: ``(batch, channels, height, width)``, two or more images in the module's units, for the verification.

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
    """Like :func:`lowered`, and records the input of each batch-norm layer with running statistics.

    Args:
        module: in any mode.
        probe: see :func:`lowered`.
        record: False: no activations are recorded.

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
    """A :data:`Network` whose graph is a pure function of the images and can be compiled.

    Args:
        graph: returns logits; with taps, also the recorded values of each.
        taps: in the order of the forward pass.
    """

    graph: nn.Module
    taps: tuple[Tap, ...]

    def __call__(self, images: Images) -> tuple[Logits, Sequence[Activation]]:
        """Logits and activations for images in the module's units."""
        if not self.taps:
            return self.graph(images), ()
        logits, tapped = self.graph(images)
        pairs = zip(self.taps, tapped, strict=True)
        return logits, [
            Activation(tap.layer, values, tap.running_mean, tap.running_var, tap.scale, tap.shift, token)
            for tap, (values, token) in pairs
        ]


def _lower(module: nn.Module, probe: Images, *, record: bool) -> tuple[fx.GraphModule, tuple[Tap, ...]] | None:
    """A lowered copy; None if the module cannot be traced or copied, or if the copy has other logits."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    if any(getattr(part, name) for part in module.modules() for name in hooks):
        return None  # a trace would run them once, while tracing
    try:
        with warnings.catch_warnings(), _unchecked():
            warnings.simplefilter("ignore")  # warnings of a trace matter only if it is used
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
            wanted, output = module(probe), graph(probe)
    except Exception:  # a forward may raise anything during a trace; such a module runs unchanged
        return None
    got = output[0] if taps else output
    close = wanted.shape == got.shape and (wanted - got).abs().max() <= _TOLERANCE * wanted.abs().max()
    return (graph, taps) if close else None


@contextmanager
def _unchecked() -> Generator[None]:
    """Disable jaxtyping's runtime checks: a trace passes proxies, which they would reject."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def _forget(copied: tuple[fx.GraphModule, tuple[Tap, ...]] | None) -> None:
    """Remove the source code of a graph from the caches for tracebacks, which would grow without bound."""
    if copied is not None:
        name = type(copied[0]).forward.__code__.co_filename
        linecache.cache.pop(name, None)
        graph_module._loader.eval_cache.pop(name, None)  # pyright: ignore[reportPrivateUsage]
