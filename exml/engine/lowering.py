"""Frozen networks in the form that runs fastest: batch norm folded, channels last, little memory for the backward pass.

PyTorch's convolution saves its input for the gradient of its weights, which a frozen network does not need. Its ReLU
saves its output; where the input is saved anyway, for statistics, that keeps the same activation twice.
"""

from __future__ import annotations

import copy
import linecache
import operator
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import attrs
import torch
from jaxtyping import config
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.fx import graph_module
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval, parametrize

from exml.core.activation import Activation, batch_norm_layers, record_activations, running_statistics
from exml.core.errors import ExmlWarning, ExpertError
from exml.core.moments import tap
from exml.core.outputs import logits_of
from exml.core.shapes import Images, Logits
from exml.engine.forward import frozen

Network: TypeAlias = Callable[[Images], tuple[Logits, Sequence[Activation]]]
"""A frozen network: returns logits, and the inputs of its batch-norm layers if they are recorded."""

_CHANNELS_LAST = (torch.float32, torch.bfloat16, torch.float16)  # float64 is slower with channels last
_TOLERANCE = 1e-3  # the largest difference of lowered logits, relative to the largest logit; for rounding only
_CONVOLUTIONS = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
_BATCH_NORMS = (nn.BatchNorm2d.forward,)  # also that of one and three dimensions
_RELUS = (functional.relu, torch.relu, "relu")
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_LEAST_SLOPE = 1e-2  # ratio of weight to bias, below which the output of batch norm does not determine its input


@contextmanager
def lowered(module: nn.Module, probe: Images) -> Generator[nn.Module]:
    """A fast form of the module inside the block, in evaluation mode and without weight gradients.

    It is a copy with channels-last weights and every batch-norm layer folded into the convolution before it. A module
    that cannot be traced, or whose copy has other logits for ``probe``, two or more images in the module's units, runs
    unchanged. Either form leaves its images as they are, even if the module writes to them. The block restores the
    module at its end.

    >>> import torch
    >>> from torch import nn
    >>> from exml.engine import lowered
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.randn(2, 3, 8, 8)
    >>> with lowered(net, images) as fast:
    ...     torch.allclose(fast(images), net(images), atol=1e-5), len(list(fast.children()))
    (True, 4)
    """
    with frozen(module), _copied(module, probe, None) as copied:
        yield _Unlowered(module).eval() if copied is None else copied.graph


@contextmanager
def recorded(module: nn.Module, probe: Images, *, record: bool, name: str = "the module") -> Generator[Network]:
    """Like :func:`lowered`; if ``record``, also records the input of each layer with running statistics.

    A layer that is not called as a module cannot be recorded. Some such layers are an ExmlWarning; if there are only
    such layers, it is an ExpertError. Both name the module by ``name``.

    >>> import torch
    >>> from torch import nn
    >>> from exml.engine import recorded
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> images = torch.randn(2, 3, 8, 8)
    >>> with recorded(net, images, record=True) as network:
    ...     logits, (activation,) = network(images)
    >>> activation.layer, torch.allclose(activation.input, net[0](images), atol=1e-5)
    ('1', True)
    """
    with frozen(module):
        found = _found(module, probe, name) if record else None
        with _copied(module, probe, found) as copied:
            if copied is not None:
                yield copied
                return
            plain = _Unlowered(module).eval()
            with record_activations(module) if record else nullcontext(()) as activations:
                yield lambda images: (plain(images), activations)


class _Unlowered(nn.Module):
    """Runs a module on a copy of the images, since its forward may write to them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Images) -> Logits:
        return logits_of(self.module(images.clone()))


def _found(module: nn.Module, probe: Images, name: str) -> Sequence[Activation]:
    """The activations of one forward pass of the module itself, compared with the layers that it has."""
    with torch.no_grad(), record_activations(module) as found:
        module(probe)
    layers, seen = [layer for layer, _ in batch_norm_layers(module)], {activation.layer for activation in found}
    if missing := [layer for layer in layers if layer not in seen]:
        named = ", ".join(map(repr, missing[:3])) + ", ..." * (len(missing) > 3)
        got = f"{len(seen)} of {len(layers)} batch-norm layers recorded in {name}, without {named}"
        if not seen:
            remedy = "call them so (TorchScript does not), or remove the prior on their statistics"
            raise ExpertError(expected="batch-norm layers that are called as modules", got=got, remedy=remedy)
        warnings.warn(f"{got}; the priors ignore layers that are not called as modules", ExmlWarning, stacklevel=2)
    return found


@attrs.frozen
class _Tap:
    """The place of a batch-norm layer, and how to compute its input from the recorded values."""

    layer: str
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


@attrs.frozen(eq=False)
class Lowered:
    """A :data:`Network` whose graph is a pure function of the images and can be compiled."""

    graph: nn.Module  # returns logits; with taps, also the recorded values of each
    taps: tuple[_Tap, ...]

    def __call__(self, images: Images) -> tuple[Logits, Sequence[Activation]]:
        """Run a forward pass on images in the module's units."""
        if not self.taps:
            return logits_of(self.graph(images)), ()
        output, tapped = self.graph(images)
        pairs = zip(self.taps, tapped, strict=True)
        return logits_of(output), [
            Activation(tap.layer, values, tap.running_mean, tap.running_var, tap.scale, tap.shift, token)
            for tap, (values, token) in pairs
        ]


@contextmanager
def _copied(module: nn.Module, probe: Images, found: Sequence[Activation] | None) -> Generator[Lowered | None]:
    copied = _lower(module, probe, found)
    try:
        yield copied
    finally:
        if copied is not None:
            # Remove the source code of the graph from the caches for tracebacks, which would grow without bound.
            name = type(copied.graph).forward.__code__.co_filename
            linecache.cache.pop(name, None)
            graph_module._loader.eval_cache.pop(name, None)  # pyright: ignore[reportPrivateUsage]


class _Tracer(fx.Tracer):
    """Keeps each layer with running statistics whole, so that its input is a value of the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return running_statistics(m) is not None or super().is_leaf_module(m, module_qualified_name)


def _lower(module: nn.Module, probe: Images, found: Sequence[Activation] | None) -> Lowered | None:
    """A lowered copy; None if the module cannot be traced or copied, or if the copy differs on ``probe``.

    The copy has the same logits, and records the activations in ``found``, if these are given.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):  # pyright: ignore[reportPrivateUsage]
        return None  # a trace would run them once, while tracing
    record, pixels = found is not None, probe.clone()
    try:
        with torch.no_grad():
            wanted = logits_of(module(pixels))
        with warnings.catch_warnings(), _unchecked():
            warnings.simplefilter("ignore")  # warnings of a trace matter only if it is used
            root = copy.deepcopy(module).eval()
            traced = _Tracer().trace(root)
        if record and not _out_of_place(root, traced):
            return None
        if not torch.equal(pixels, probe) or pixels._version:
            images = next(node for node in traced.nodes if node.op == "placeholder")
            with traced.inserting_after(images):
                copied = traced.call_method("clone", (images,))
            images.replace_all_uses_with(copied)
            copied.args = (images,)
        taps = _fold(root, traced, record=record)
        graph = fx.GraphModule(root, traced)
        if next((p.dtype for p in graph.parameters()), None) in _CHANNELS_LAST:
            graph = graph.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        graph.eval().requires_grad_(False)
        network = Lowered(graph, taps)
        with torch.no_grad():
            logits, activations = network(probe.clone())
        pairs = list(zip(activations, found or (), strict=True))  # another number is an error
        same = _close(logits, wanted) and all(a.layer == b.layer and _close(a.input, b.input) for a, b in pairs)
    except Exception:  # a forward may raise anything during a trace; such a module runs unchanged
        return None
    return network if same else None


def _close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and bool((got - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


@contextmanager
def _unchecked() -> Generator[None]:
    """Disable jaxtyping's runtime checks: a trace passes proxies, which they would reject."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


def _fold(root: nn.Module, graph: fx.Graph, *, record: bool) -> tuple[_Tap, ...]:
    """Fold each batch-norm layer into the convolution before it; returns its taps in the order of the forward pass.

    Only torch's own forward is folded; a subclass with another stays a call.
    """
    modules = dict(root.named_modules())
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    taps: list[_Tap] = []
    tapped: list[tuple[fx.Node, fx.Node]] = []
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        layer: Any = modules[str(node.target)]
        statistics = running_statistics(layer)
        if statistics is None:
            continue
        before = node.all_input_nodes[0]
        convolution: Any = modules.get(str(before.target)) if before.op == "call_module" else None
        alone = len(before.users) == 1 and targets.count(node.target) == targets.count(before.target) == 1
        marked = _Tap(str(node.target), *(row.detach().clone() for row in statistics))
        if alone and _is_plain(convolution, _CONVOLUTIONS) and _is_plain(layer, _BATCH_NORMS):
            inverse = _inverse(layer)
            if not (record and inverse is None):
                folded: Any = fuse_conv_bn_eval(convolution, layer)
                root.set_submodule(str(before.target), folded)
                node.replace_all_uses_with(before)
                graph.erase_node(node)
                scale, shift = inverse or (None, None)
                marked = attrs.evolve(marked, scale=scale, shift=shift)
        if record:
            taps.append(marked)
            tapped.append(_tap(graph, before, modules))
    if taps:
        (output,) = (node for node in graph.nodes if node.op == "output")
        output.args = ((output.args[0], tuple(tapped)),)
        for name, module in list(root.named_modules()):
            if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                root.set_submodule(name, _FrozenConv2d(module))
    return tuple(taps)


def _is_plain(module: Any, forwards: Sequence[Callable[..., Tensor]]) -> bool:
    """Whether the forward of a module is one of torch's own, with the module's own weights."""
    own = getattr(type(module), "forward", None) in forwards and "forward" not in vars(module)
    return own and not parametrize.is_parametrized(module)


def _tap(graph: fx.Graph, values: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node]:
    """Insert a tap after a node. The backward pass keeps its output, so a ReLU that follows keeps nothing else."""
    with graph.inserting_after(values):
        both = graph.call_function(tap, (values,))
    values.replace_all_uses_with(both, delete_user_cb=lambda user: user is not both)
    with graph.inserting_after(both):
        passing = graph.call_function(operator.getitem, (both, 0))
    both.replace_all_uses_with(passing, delete_user_cb=lambda user: user is not passing)
    with graph.inserting_after(passing):
        token = graph.call_function(operator.getitem, (both, 1))
    for user in list(passing.users):
        if _is_relu(user, modules):
            with graph.inserting_before(user):
                user.replace_all_uses_with(graph.call_function(_relu, (passing,)))
            graph.erase_node(user)
    return passing, token


def _inverse(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Scale and shift from the output of a batch-norm layer to its input; None where rounding has lost the input.

    ``output = (input - mean) / sqrt(var + eps) · weight + bias``.
    """
    deviation = (layer.running_var + layer.eps).sqrt()
    if layer.weight is None:
        return deviation, layer.running_mean
    weight = layer.weight.detach()
    bias = torch.zeros_like(weight) if layer.bias is None else layer.bias.detach()
    # Rounding is relative to the larger of the two terms of the output.
    if bool((weight.abs() <= _LEAST_SLOPE * bias.abs()).any()):
        return None
    scale = deviation / weight
    return scale, layer.running_mean - bias * scale


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(weight)
        ctx.settings, ctx.shape = settings, inputs.shape
        stride, padding, dilation, groups = settings
        return functional.conv2d(inputs, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        weight = weight.to(gradients[0].dtype)  # as in the forward pass under autocast; not every CPU can mix types
        stride, padding, dilation, groups = ctx.settings
        # Only the shape and the memory format of the input matter; its values are not read.
        last = gradients[0].is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        like = torch.empty(ctx.shape, dtype=weight.dtype, device=weight.device, memory_format=order)
        gradient, _, _ = torch.ops.aten.convolution_backward(
            gradients[0], like, weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
        )
        return gradient, None, None, None


class _FrozenConv2d(nn.Module):
    """A convolution that shares the weights of another, and computes no gradient for them."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._settings = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, inputs: Tensor) -> Tensor:
        return _Convolution.apply(inputs, self.weight, self.bias, self._settings)


class _ReLU(torch.autograd.Function):
    """ReLU that saves its input for the backward pass instead of its output."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(inputs)
        return inputs.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inputs,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], inputs, 0)


def _relu(inputs: Tensor) -> Tensor:
    return _ReLU.apply(inputs)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules.get(str(node.target))) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in _RELUS


def _out_of_place(root: nn.Module, graph: fx.Graph) -> bool:
    """Replace in-place operations by ones that return a new tensor; False if one of them has no replacement.

    The copy then differs from the module where it reads a tensor after writing to it, which the probe shows.
    """
    for module in root.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.target in _IN_PLACE:
            node.target = _IN_PLACE[node.target]
        name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
        if node.op not in ("call_method", "call_function") or not name.endswith("_") or name.endswith("__"):
            continue
        plain = getattr(Tensor if node.op == "call_method" else torch, name[:-1], None)
        if not callable(plain):
            return False
        node.target = name[:-1] if node.op == "call_method" else plain
    return not any("out" in node.kwargs for node in graph.nodes)
