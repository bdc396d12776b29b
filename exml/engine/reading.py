"""What the layers of an expert tell about an image in addition to its logits, read during one forward pass.

SGD moves the weights of a linear layer within the span of the inputs that it was trained on. An input far outside the
row space of such a layer is therefore unlike the training images, although the logits may be large.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from exml.core.expert import Expert
from exml.core.outputs import logits_of
from exml.core.samples import inference_batch_size
from exml.core.shapes import Images
from exml.engine.forward import frozen
from exml.models.classifier import candidates, final_layers

_LEAST = 1e-6  # the smallest share of energy outside the row space


@attrs.frozen(eq=False)
class Reading:
    """One forward pass of an expert.

    Args:
        logits: ``(batch, units)``.
        norm: ``(batch, 1)``, the norm of the input of the classifier; 1 if the classifier is not found.
        typicality: ``(batch,)``, ``-log(1 - ‖V a‖² / ‖a‖²)``, where V is an orthonormal basis of the row space of the
            narrowing layer and a is its input; None without such a layer.
    """

    logits: Float[Tensor, "batch units"]
    norm: Float[Tensor, "batch 1"]
    typicality: Float[Tensor, " batch"] | None


@attrs.frozen(eq=False)
class Reader:
    """Reads the forward passes of a module; made by :func:`reader_of`.

    Args:
        classifier: the name of the last layer, if found.
        narrowing: the name of the narrowing layer, if there is one: the first linear layer, other than the classifier,
            with fewer outputs than inputs; otherwise the last convolution with fewer outputs than values in a patch.
        basis: ``(rank, inputs)``, orthonormal rows that span the row space of its weight.
    """

    classifier: str | None
    narrowing: str | None
    basis: Float[Tensor, "rank inputs"] | None

    def __call__(self, module: nn.Module, images: Images) -> Reading:
        """Run the module on images in its units."""
        found: dict[str, Tensor] = {}

        def norm(_: nn.Module, inputs: Any) -> None:
            if inputs:  # and not passed by name
                found["norm"] = inputs[0].flatten(1).norm(dim=1, keepdim=True)

        def typicality(layer: nn.Module, inputs: Any) -> None:
            assert self.basis is not None
            found["typicality"] = row_space_typicality(inputs[0], layer, self.basis)

        with ExitStack() as hooks:
            for name, hook in ((self.classifier, norm), (self.narrowing, typicality)):
                if name is not None:
                    hooks.enter_context(module.get_submodule(name).register_forward_pre_hook(hook))
            logits = logits_of(module(images))
        return Reading(logits, found.get("norm", logits.new_ones(len(logits), 1)), found.get("typicality"))


@torch.no_grad()
def read(expert: Expert, reader: Reader, pixels: Images) -> Reading:
    """Read any number of images in pixel units, in evaluation mode."""
    with frozen(expert.module):
        batches = pixels.split(inference_batch_size(expert.image_shape))
        parts = [reader(expert.module, expert.normalize(batch)) for batch in batches]
    seen = [part.typicality for part in parts if part.typicality is not None]
    logits, norm = torch.cat([part.logits for part in parts]), torch.cat([part.norm for part in parts])
    return Reading(logits, norm, torch.cat(seen) if seen else None)


@torch.no_grad()
def reader_of(expert: Expert) -> Reader:
    """Find the classifier and the narrowing layer of an expert by a forward pass.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> reader = reader_of(Expert(net, (0, 1), (1, 8, 8)))
    >>> reader.classifier, reader.narrowing, reader.basis.shape
    ('3', '1', torch.Size([8, 64]))
    """
    module, order = expert.module, list[str]()
    gray = expert.normalize(torch.full((1, *expert.image_shape), 0.5, device=expert.device))
    layers = {name: part for name, part in module.named_modules() if _narrows(part)}

    def note(name: str, _: nn.Module, inputs: Any) -> None:
        order.extend([name] if inputs else [])  # inputs passed by name are not read

    with frozen(module), ExitStack() as hooks:
        for name, part in layers.items():
            hooks.enter_context(part.register_forward_pre_hook(partial(note, name)))
        heads = final_layers(module, candidates(module, len(expert.outputs)), gray)
    classifier = heads[0] if heads else None
    found: dict[Literal["linear", "convolution"], list[str]] = {"linear": [], "convolution": []}
    for name in order:
        if name != classifier:
            found["linear" if isinstance(layers[name], nn.Linear) else "convolution"].append(name)
    narrowing = (found["linear"][:1] or found["convolution"][-1:] or [None])[0]
    return Reader(classifier, narrowing, None if narrowing is None else _row_space(layers[narrowing]))


def row_space_typicality(
    inputs: Tensor, layer: nn.Module, basis: Float[Tensor, "rank inputs"]
) -> Float[Tensor, " batch"]:
    """``-log(1 - ‖V a‖² / ‖a‖²)`` of the inputs of a layer; energies are summed over tokens or patches.

    >>> layer = nn.Linear(2, 1)
    >>> inputs = torch.tensor([[4.0, 3.0], [3.0, 4.0]])
    >>> row_space_typicality(inputs, layer, torch.tensor([[1.0, 0.0]])).exp()
    tensor([2.7778, 1.5625])
    """
    if isinstance(layer, nn.Conv2d):
        place: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        kernels = basis.view(-1, *layer.weight.shape[1:])
        inside = functional.conv2d(inputs, kernels, **place).square()
        ones = inputs.new_ones(1, 1, *layer.kernel_size)
        whole = functional.conv2d(inputs.square().sum(1, keepdim=True), ones, **place)
    else:
        inside, whole = (inputs @ basis.T).square(), inputs.square()
    share = inside.flatten(1).sum(1) / whole.flatten(1).sum(1).clamp_min(_LEAST)
    return -(1 - share).clamp_min(_LEAST).log()


def matched_temperature(logits: Float[Tensor, "batch classes"], entropy: float) -> float:
    """T > 0 at which the mean entropy of ``softmax(logits / T)`` is ``entropy`` times that of equal probabilities.

    1 for a single class, and for logits that are all equal. By bisection of log T, between 1e-4 and 1e4 times the
    standard deviation.

    >>> logits = torch.tensor([[0.0, 2.0], [5.0, 1.0]])
    >>> probabilities = (logits / matched_temperature(logits, 0.5)).softmax(1)
    >>> torch.special.entr(probabilities).sum(1).mean() / math.log(2)
    tensor(0.5000)
    """
    centered = (logits - logits.mean(1, keepdim=True)).double()
    spread, most = float(centered.square().mean().sqrt()), math.log(logits.shape[1])
    if most == 0 or spread == 0:
        return 1.0
    low, high = math.log(1e-4), math.log(1e4)
    for _ in range(60):
        middle = (low + high) / 2
        probabilities = (centered / (spread * math.exp(middle))).softmax(1)
        if float(torch.special.entr(probabilities).sum(1).mean()) < entropy * most:
            low = middle
        else:
            high = middle
    return spread * math.exp((low + high) / 2)


def _narrows(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.out_features < layer.in_features
    if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
        return False
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and layer.out_channels < layer.weight[0].numel()


def _row_space(layer: Any) -> Float[Tensor, "rank inputs"]:
    _, values, rows = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    return rows[values > 1e-5 * values[0]]
