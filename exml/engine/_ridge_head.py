"""The student's classifier in closed form: ridge regression from its features to the targets."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.errors import SettingError
from exml.core.shapes import Images
from exml.core.targets import Target
from exml.engine.forward import frozen
from exml.models.classifier import candidates, final_layers


def ridge_head(student: nn.Module, images: Images, classes: int) -> nn.Linear:
    """The linear layer that ``Training.ridge`` solves for; raises a SettingError if the student does not end in one."""
    layers = candidates(student, classes)
    with frozen(student):
        found = final_layers(student, layers, images)
    layer = layers[found[0]] if found else None
    if not isinstance(layer, nn.Linear):
        raise SettingError(
            expected=f"a student that ends in an nn.Linear with {classes} outputs, since Training.ridge solves for it",
            got=f"{type(student).__name__}, whose last layer is not one",
            remedy="give the student such a layer, or set ridge to None",
        )
    return layer


@torch.no_grad()
def solve_ridge_head(
    student: nn.Module, batches: Iterable[tuple[Tensor, Target]], classes: int, ridge: float
) -> nn.Linear:
    """Set the ridge head's rows of all classes with targets to the least squares solution; returns the layer."""
    layer: nn.Linear | None = None
    rows_of_batches: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, target in batches:
        layer = layer or ridge_head(student, images[:2].clone(), classes)
        rows_of_batches.append((_features(layer, student, images), target.logits, target.defined))
    assert layer is not None
    # Tens of megabytes at most, and the solution needs float64, which some accelerators lack.
    inputs, wanted, where = (torch.cat(parts).cpu() for parts in zip(*rows_of_batches, strict=True))
    parameters = dict(layer.named_parameters())
    patterns, of_class = where.T.unique(dim=0, return_inverse=True)
    for number, rows in enumerate(patterns):
        if rows.any():
            units = (of_class == number).nonzero().squeeze(1)
            solution = _ridge(inputs[rows].double(), wanted[rows][:, units].double(), ridge, "bias" in parameters)
            for name, values in solution.items():
                parameters[name][units.to(layer.weight.device)] = values.to(parameters[name])
    return layer


def _features(layer: nn.Linear, student: nn.Module, images: Images) -> Float[Tensor, "batch features"]:
    caught: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach().clone()))
    try:
        with frozen(student):
            student(images)
    finally:
        handle.remove()
    return caught[-1]


def _ridge(
    inputs: Float[Tensor, "rows features"], wanted: Float[Tensor, "rows units"], ridge: float, with_bias: bool
) -> dict[str, Tensor]:
    """The weight, and the bias, which is not penalized."""
    center, mean = (inputs.mean(0), wanted.mean(0)) if with_bias else (inputs.new_zeros(1), wanted.new_zeros(1))
    inputs = inputs - center
    gram = inputs.T @ inputs
    # The minimum avoids a singular matrix when all features are constant.
    penalty = (ridge * gram.diagonal().mean()).clamp_min(1e-12)
    solved = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), inputs.T @ (wanted - mean))
    return {"weight": solved.T, **({"bias": mean - center @ solved} if with_bias else {})}
