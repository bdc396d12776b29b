"""A frozen network in the form that its device runs fastest: batch norm folded, channels last."""

from __future__ import annotations

import copy
import linecache
import operator
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, cast

import attrs
import torch
from jaxtyping import config
from torch import Tensor, fx, nn
from torch.fx import graph_module
from torch.nn.utils import fuse_conv_bn_eval

from exml._types import Images, Logits
from exml.engine._frugal import FrozenConv2d, is_relu, out_of_place, relu
from exml.engine.frozen import frozen
from exml.priors._moments import tap
from exml.priors.activation import BATCH_NORM, Activation, record_activations

Network: TypeAlias = Callable[[Images], tuple[Logits, Sequence[Activation]]]
"""A frozen network: logits, and what entered its batch-norm layers if that was asked for."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNELS_LAST = (torch.float32, torch.bfloat16, torch.float16)
"""What convolutions with channels last are made for; in float64 they are slower than without."""
_TOLERANCE = 1e-3
"""How far lowered logits may be from the others, relative to the largest: rounding, and no more."""
_LEAST_SLOPE = 1e-2
"""A batch-norm layer whose weight is smaller than this, relative to its bias, tells too little of its input."""


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


@attrs.frozen
class Tap:
    """Where a batch-norm layer was, and how to get from what is recorded there to its input."""

    layer: str
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


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
        taps = _fold(root, traced, record=record)
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


def _fold(root: nn.Module, graph: fx.Graph, *, record: bool) -> tuple[Tap, ...]:
    """Make each batch-norm layer part of the convolution before it; record, in the order of the forward pass."""
    modules = dict(root.named_modules())
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    taps: list[Tap] = []
    tapped: list[tuple[fx.Node, fx.Node]] = []
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        layer = modules[str(node.target)]
        if not isinstance(layer, BATCH_NORM) or layer.running_mean is None or layer.running_var is None:
            continue
        before = node.all_input_nodes[0]
        convolution = modules.get(str(before.target)) if before.op == "call_module" else None
        alone = len(before.users) == 1 and targets.count(node.target) == targets.count(before.target) == 1
        marked = Tap(str(node.target), layer.running_mean, layer.running_var)
        way_back = _way_back(layer)
        if isinstance(convolution, _CONVOLUTIONS) and alone and not (record and way_back is None):
            folded: Any = fuse_conv_bn_eval(convolution, layer)
            root.set_submodule(str(before.target), folded)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            scale, shift = way_back or (None, None)
            marked = attrs.evolve(marked, scale=scale, shift=shift)
        if record:
            taps.append(marked)
            tapped.append(_tap(graph, before, modules))
    if taps:
        (output,) = (node for node in graph.nodes if node.op == "output")
        output.args = ((output.args[0], tuple(tapped)),)
        for name, module in list(root.named_modules()):
            if FrozenConv2d.replaces(module):
                root.set_submodule(name, FrozenConv2d(cast(nn.Conv2d, module)))
    return tuple(taps)


def _tap(graph: fx.Graph, values: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node]:
    """Put a tap behind a node; what it gives is kept for the backward pass, and a ReLU after it need keep no more."""
    with graph.inserting_after(values):
        both = graph.call_function(tap, (values,))
    values.replace_all_uses_with(both, delete_user_cb=lambda user: user is not both)
    with graph.inserting_after(both):
        passing = graph.call_function(operator.getitem, (both, 0))
    both.replace_all_uses_with(passing, delete_user_cb=lambda user: user is not passing)
    with graph.inserting_after(passing):
        token = graph.call_function(operator.getitem, (both, 1))
    for user in list(passing.users):
        if is_relu(user, modules):
            with graph.inserting_before(user):
                user.replace_all_uses_with(graph.call_function(relu, (passing,)))
            graph.erase_node(user)
    return passing, token


def _way_back(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Scale and shift from the output of a batch-norm layer to its input; None where its slope has lost the input.

    ``output = (input - mean) / sqrt(var + eps) · weight + bias``.
    """
    deviation = (layer.running_var + layer.eps).sqrt()
    if layer.weight is None:
        return deviation, layer.running_mean
    weight, bias = layer.weight.detach(), layer.bias.detach()
    # The output is rounded relative to its size, which is that of the larger of the two.
    if bool((weight.abs() <= _LEAST_SLOPE * bias.abs()).any()):
        return None
    scale = deviation / weight
    return scale, layer.running_mean - bias * scale
