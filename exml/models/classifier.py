"""The classifier of a network: the last linear layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exml.core.outputs import logits_of
from exml.core.shapes import Images

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
