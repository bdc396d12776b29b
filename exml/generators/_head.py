"""The classifier of an expert: the layer whose rows are templates of the classes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from exml.engine import frozen
from exml.errors import ExpertError
from exml.experts import Expert


def class_templates(expert: Expert, head: str | None, units: Int[Tensor, " units"]) -> Tensor:
    """The rows w_k of the classifier's weight for some output units, ``(len(units), hidden)``.

    Args:
        expert: whose classifier.
        head: the qualified name of an ``nn.Linear`` or 1x1 ``nn.Conv2d`` with one output for each output unit; None:
            the only such layer, or of several the only one whose output is the expert's output.
        units: positions among the expert's outputs.

    Raises:
        ExpertError: when no layer or more than one is left; names them.
    """
    layers = _candidates(expert)
    if head is not None:
        found = [head] if head in layers else []
    else:
        found = list(layers) if len(layers) < 2 else _answering(expert, layers)
    if len(found) != 1:
        raise ExpertError(
            expected=f"one classifier in expert {expert.name!r}: an nn.Linear or 1x1 nn.Conv2d with "
            f"{len(expert.outputs)} outputs" + (f" named {head!r}" if head is not None else ""),
            got=f"the candidates {', '.join(map(repr, layers))}" if layers else "no such layer",
            remedy="name the layer with DataImpression(head=...)" if layers else "use ModelInversion for this expert",
        )
    weight = layers[found[0]].weight.detach().flatten(1)
    return weight[units.to(weight.device)]


def _candidates(expert: Expert) -> dict[str, nn.Linear | nn.Conv2d]:
    outputs = len(expert.outputs)
    return {
        name: part
        for name, part in expert.module.named_modules()
        if (isinstance(part, nn.Linear) and part.out_features == outputs)
        or (isinstance(part, nn.Conv2d) and part.out_channels == outputs and part.kernel_size == (1, 1))
    }


@torch.no_grad()
def _answering(expert: Expert, layers: dict[str, nn.Linear | nn.Conv2d]) -> list[str]:
    """Those layers whose output is what the expert answers, found by asking it once."""
    said: dict[str, Tensor] = {}

    def listener(name: str) -> Any:
        def listen(_part: nn.Module, _inputs: Any, output: Tensor) -> None:
            said[name] = output.detach().flatten(1)

        return listen

    handles = [part.register_forward_hook(listener(name)) for name, part in layers.items()]
    try:
        with frozen(expert.module):
            logits = expert.logits(torch.full((1, *expert.image_shape), 0.5, device=expert.device))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, output in said.items() if torch.equal(output, logits)]
