"""Batch norm folded into the convolutions before it, with taps that record what entered it."""

from __future__ import annotations

import operator
from typing import Any, cast

import attrs
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from exml.core.activation import BATCH_NORM
from exml.core.moments import tap
from exml.engine._frozen_ops import FrozenConv2d, is_relu, relu

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LEAST_SLOPE = 1e-2
"""Below this ratio of weight to bias, the input of a batch-norm layer cannot be recovered from its output."""


@attrs.frozen
class Tap:
    """The place of a batch-norm layer, and how to compute its input from the recorded values."""

    layer: str
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


def fold(root: nn.Module, graph: fx.Graph, *, record: bool) -> tuple[Tap, ...]:
    """Fold each batch-norm layer into the convolution before it; returns its taps in the order of the forward pass."""
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
        inverse = _inverse(layer)
        if isinstance(convolution, _CONVOLUTIONS) and alone and not (record and inverse is None):
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
            if FrozenConv2d.replaces(module):
                root.set_submodule(name, FrozenConv2d(cast(nn.Conv2d, module)))
    return tuple(taps)


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
        if is_relu(user, modules):
            with graph.inserting_before(user):
                user.replace_all_uses_with(graph.call_function(relu, (passing,)))
            graph.erase_node(user)
    return passing, token


def _inverse(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Scale and shift from the output of a batch-norm layer to its input; None where rounding has lost the input.

    ``output = (input - mean) / sqrt(var + eps) · weight + bias``.
    """
    deviation = (layer.running_var + layer.eps).sqrt()
    if layer.weight is None:
        return deviation, layer.running_mean
    weight, bias = layer.weight.detach(), layer.bias.detach()
    # Rounding is relative to the larger of the two terms of the output.
    if bool((weight.abs() <= _LEAST_SLOPE * bias.abs()).any()):
        return None
    scale = deviation / weight
    return scale, layer.running_mean - bias * scale
