"""The classifier of an expert: the layer whose rows are templates of the classes."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from exml.core.errors import ExpertError
from exml.core.expert import Expert
from exml.engine import frozen
from exml.models.classifier import Classifier, candidates, final_layers


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
    layers = candidates(expert.module, len(expert.outputs))
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


def _answering(expert: Expert, layers: dict[str, Classifier]) -> list[str]:
    grey = expert.normalize(torch.full((1, *expert.image_shape), 0.5, device=expert.device))
    with frozen(expert.module):
        return final_layers(expert.module, layers, grey)
