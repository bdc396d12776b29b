"""Batch norm made part of the convolutions before it, with taps where the layers were."""

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
"""A batch-norm layer whose weight is smaller than this, relative to its bias, tells too little of its input."""


@attrs.frozen
class Tap:
    """Where a batch-norm layer was, and how to get from what is recorded there to its input."""

    layer: str
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


def fold(root: nn.Module, graph: fx.Graph, *, record: bool) -> tuple[Tap, ...]:
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
