"""The classifier of a network: the last linear layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exml.core.admission import evaluation_mode
from exml.core.errors import SettingError
from exml.core.outputs import logits_of
from exml.core.rng import make_generator
from exml.core.shapes import Images
from exml.models.registry import amend

Classifier = nn.Linear | nn.Conv2d
"""A linear layer, or a 1x1 convolution."""


def candidates(module: nn.Module, outputs: int) -> dict[str, Classifier]:
    """The layers with ``outputs`` outputs, by qualified name, that may be the classifier of a network."""
    return {
        name: part
        for name, part in module.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == outputs)
        or (isinstance(part, nn.Conv2d) and part.out_channels == outputs and part.kernel_size == (1, 1))
    }


@torch.no_grad()
def final_layers(module: nn.Module, layers: dict[str, Classifier], images: Images) -> list[str]:
    """The names of the layers whose output is that of the module, found by one forward pass."""
    outputs: dict[str, Tensor] = {}

    def record(name: str, _part: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[name] = output.detach().flatten(1).clone()  # later operations may be in place

    handles = [part.register_forward_hook(partial(record, name)) for name, part in layers.items()]
    try:
        logits = logits_of(module(images))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, output in outputs.items() if torch.equal(output, logits)]


_EARLY = "give the student enough outputs from the beginning"


def grow_head(module: nn.Module, classes: int, image_shape: tuple[int, int, int], *, seed: int = 0) -> None:
    """Give a classifier more outputs, in place.

    Its last layer, a linear layer or a 1x1 convolution, is the one with which all outputs grow while the present ones
    stay as they are; this is tried. That layer keeps its rows; new ones are initialized as those of a new layer. What
    :func:`exml.models.describe` returns for the module and its parts is corrected. With the number of outputs that the
    module has, nothing changes.

    Args:
        classes: the new number of outputs.
        image_shape: ``(channels, height, width)`` of images that the module takes.
        seed: of the new rows.

    Raises:
        SettingError: ``classes`` is lower than the number of outputs, or no last layer is found that can grow.

    >>> import torch
    >>> from exml.models import grow_head
    >>> from exml.models import build, describe
    >>> net = build("conv-net", channels=1, classes=2, image_size=8)
    >>> grow_head(net, 3, (1, 8, 8))
    >>> net(torch.zeros(5, 1, 8, 8)).shape, describe(net)["settings"]["classes"]
    (torch.Size([5, 3]), 3)
    """
    weight = next(module.parameters(), torch.zeros(()))
    probe = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(weight.device)
    with evaluation_mode(module), torch.no_grad():
        logits = logits_of(module(probe))
        outputs = logits.shape[1]
        if classes < outputs:
            expected = f"at least {outputs} outputs, the present number"
            raise SettingError(expected=expected, got=str(classes), remedy="a classifier can only grow")
        if classes == outputs:
            return
        layers = candidates(module, outputs)
        for layer in reversed(layers.values()):
            undo = _grow(layer, classes, seed)
            try:
                grown = logits_of(module(probe))
                fits = grown.shape == (2, classes) and torch.allclose(grown[:, :outputs], logits, 1e-3, 1e-4)
            except Exception:  # another layer takes the old number of inputs
                fits = False
            if fits:
                _record(module, layer, outputs, undo)
                return
            undo()
    expected = f"a classifier that ends in an nn.Linear or 1x1 nn.Conv2d with {outputs} outputs, so that it can grow"
    got = f"{type(module).__name__}, in which none of {len(layers)} such layers can"
    raise SettingError(expected=expected, got=got, remedy=_EARLY)


def grow_layer(module: nn.Module, name: str, classes: int) -> None:
    """:func:`grow_head` for a module whose last layer is known by its qualified ``name``."""
    layer: Any = module.get_submodule(name)
    _record(module, layer, len(layer.weight), _grow(layer, classes, 0))


def _grow(layer: Classifier, classes: int, seed: int) -> Callable[[], None]:
    """Append rows to the weight and the bias that a layer itself holds; returns the function that removes them."""
    own = dict(layer.named_parameters(recurse=False))
    outputs, bound = len(layer.weight), layer.weight[0].numel() ** -0.5  # that of torch's own initialization
    draws = make_generator("cpu", seed, "head", classes)
    size = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
    for part, rows in own.items():
        new = torch.empty(classes - outputs, *rows.shape[1:]).uniform_(-bound, bound, generator=draws)
        grown = torch.cat((rows.detach(), new.to(rows)))
        setattr(layer, part, nn.Parameter(grown, requires_grad=rows.requires_grad))
    setattr(layer, size, classes)

    def undo() -> None:
        for part, rows in own.items():
            setattr(layer, part, rows)
        setattr(layer, size, outputs)

    return undo


def _record(module: nn.Module, layer: nn.Module, outputs: int, undo: Callable[[], None]) -> None:
    try:
        amend(module, layer, outputs, len(layer.weight))  # pyright: ignore[reportArgumentType]
    except SettingError:
        undo()
        raise
