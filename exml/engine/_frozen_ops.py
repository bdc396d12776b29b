"""Operations of a frozen network that save less memory for the backward pass.

PyTorch's convolution saves its input for the gradient of its weights, which a frozen network does not need. Its ReLU
saves its output; where the input is saved anyway, for statistics, that keeps the same activation twice.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

IN_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_RELUS = (functional.relu, torch.relu)


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
        stride, padding, dilation, groups = ctx.settings
        # Only the shape and the memory format of the input matter; its values are not read.
        last = gradients[0].is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        like = torch.empty(ctx.shape, dtype=weight.dtype, device=weight.device, memory_format=order)
        wanted = (True, False, False)  # the gradient of the input alone
        gradient, _, _ = torch.ops.aten.convolution_backward(
            gradients[0], like, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted
        )
        return gradient, None, None, None


class FrozenConv2d(nn.Module):
    """A convolution whose weights get no gradient.

    Args:
        convolution: provides the weights, which are shared, and the settings.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._settings = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, inputs: Tensor) -> Tensor:
        """The same output as ``nn.Conv2d``."""
        return _Convolution.apply(inputs, self.weight, self.bias, self._settings)

    @staticmethod
    def replaces(module: nn.Module) -> bool:
        """Whether a module is a plain ``nn.Conv2d`` with numeric zero padding."""
        return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(inputs)
        return inputs.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inputs,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], inputs, 0)


def relu(inputs: Tensor) -> Tensor:
    """ReLU that saves its input for the backward pass instead of its output."""
    return _ReLU.apply(inputs)


def is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node of a graph is a ReLU of one argument."""
    if node.op == "call_module":
        return type(modules.get(str(node.target))) is nn.ReLU
    if node.op == "call_function":
        return node.target in _RELUS
    return node.op == "call_method" and node.target == "relu"


def out_of_place(root: nn.Module, graph: fx.Graph) -> bool:
    """Replace in-place operations by ones that return a new tensor; False if one of them has no replacement."""
    for module in root.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.target in IN_PLACE:
            node.target = IN_PLACE[node.target]
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op in ("call_method", "call_function") and str(name).endswith("_") and not str(name).endswith("__"):
            return False
    return True
