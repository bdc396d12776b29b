"""The last linear layer of a network, whose output is what the network answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exml.core.shapes import Images

Classifier = nn.Linear | nn.Conv2d
"""A convolution is one if its kernel is 1x1."""


def candidates(module: nn.Module, outputs: int) -> dict[str, Classifier]:
    """The layers, by qualified name, that could be the classifier of a network with so many outputs."""
    return {
        name: part
        for name, part in module.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == outputs)
        or (isinstance(part, nn.Conv2d) and part.out_channels == outputs and part.kernel_size == (1, 1))
    }


@torch.no_grad()
def answering(module: nn.Module, layers: dict[str, Classifier], images: Images) -> list[str]:
    """The names of those layers whose output is the module's, found by asking it once about a few images."""
    said: dict[str, Tensor] = {}

    def listener(name: str) -> Any:
        def listen(_part: nn.Module, _inputs: Any, output: Tensor) -> None:
            said[name] = output.detach().flatten(1)

        return listen

    handles = [part.register_forward_hook(listener(name)) for name, part in layers.items()]
    try:
        logits = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, output in said.items() if torch.equal(output, logits)]
