"""What the layers of an expert tell about an image in addition to its logits, read during one forward pass.

SGD moves the weights of a linear layer within the span of the inputs that it was trained on: with momentum and
coupled weight decay, ``W = γ W0 + Σ c δ aᵀ`` for its initial weights W0, its inputs a and gradients δ of its outputs.
An input far outside the row space of W - γ W0, or of W where W0 is unknown, is therefore unlike the training images,
even if the logits are large.
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
from exml.core.shapes import Images, Labels, State
from exml.core.targets import Reading
from exml.engine.forward import frozen
from exml.models.classifier import candidates, final_layers

_LEAST = 1e-6  # the smallest share of energy outside the row space
_RELATED = 0.2  # the least cosine of the weights of two layers with a common start; long training brings it down
_CHANCE = 5.0  # standard deviations of the cosine of independent weights, which is 1/√n for n weights


@attrs.frozen(eq=False)
class Reader:
    """Reads the forward passes of a module; made by :func:`reader_of`.

    Args:
        classifier: the name of the last layer, if found.
        narrowing: the name of the narrowing layer, if there is one: the first linear layer, other than the classifier,
            with fewer outputs than inputs; otherwise the last convolution with fewer outputs than values in a patch.
        basis: ``(rank, inputs)``, orthonormal rows that span the row space of its weight, less ``decay`` times that of
            the start.
        own: ``(k,)``, the units of the expert's classes.
        decay: γ; 0 without a common start.
    """

    classifier: str | None
    narrowing: str | None
    basis: Float[Tensor, "rank inputs"] | None
    own: Labels
    decay: float = 0.0

    @property
    def related(self) -> bool:
        """Whether the weights that the narrowing layer was trained from, or others of the same origin, are known."""
        return self.decay > 0

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
        norm_of_rows = found.get("norm", logits.new_ones(len(logits), 1))
        return Reading(logits, norm_of_rows, found.get("typicality"), self.own)


@torch.no_grad()
def read(expert: Expert, reader: Reader, pixels: Images) -> Reading:
    """Read any number of images in pixel units, in evaluation mode."""
    with frozen(expert.module):
        batches = pixels.split(inference_batch_size(expert.image_shape))
        parts = [reader(expert.module, expert.normalize(batch)) for batch in batches]
    seen = [part.typicality for part in parts if part.typicality is not None]
    logits, norm = torch.cat([part.logits for part in parts]), torch.cat([part.norm for part in parts])
    return attrs.evolve(parts[0], logits=logits, norm=norm, typicality=torch.cat(seen) if seen else None)


@torch.no_grad()
def reader_of(expert: Expert, start: State | None = None) -> Reader:
    """Find the classifier and the narrowing layer of an expert by a forward pass.

    Args:
        start: weights that the expert was trained from, or those of another expert that was trained from the same, by
            the names of the expert's state dict. Of a narrowing layer that is linear, the basis then spans the row
            space of what it learned since, W - γ W0. If the two are not :func:`related`, ``start`` is ignored.

    >>> import exml, torch
    >>> from exml.engine import reader_of
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> reader = reader_of(exml.Expert(net, (0, 1), (1, 8, 8)))
    >>> reader.classifier, reader.narrowing, reader.basis.shape
    ('3', '1', torch.Size([8, 64]))
    """
    classifier, narrowing = _layers(expert)
    own = expert.own_units.to(expert.device)
    if narrowing is None:
        return Reader(classifier, None, None, own)
    weight = expert.module.get_submodule(narrowing).get_parameter("weight").detach()
    first = (start or {}).get(f"{narrowing}.weight")
    if weight.ndim > 2 or first is None or first.shape != weight.shape or not related(weight, first):
        return Reader(classifier, narrowing, _row_space(weight.flatten(1)), own)
    decay = learned_decay(weight, first.to(weight))
    return Reader(classifier, narrowing, _row_space(weight - decay * first.to(weight)), own, decay)


def narrowing_weights(expert: Expert) -> State:
    """A copy of the weights of the narrowing layer by the name in the state dict; empty without a linear one.

    >>> import exml, torch
    >>> from exml.engine import narrowing_weights
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> {name: weight.shape for name, weight in narrowing_weights(exml.Expert(net, (0, 1), (1, 8, 8))).items()}
    {'1.weight': torch.Size([8, 64])}
    """
    _, name = _layers(expert)
    layer = None if name is None else expert.module.get_submodule(name)
    return {f"{name}.weight": layer.weight.detach().clone()} if isinstance(layer, nn.Linear) else {}


def related(weight: Tensor, start: Tensor) -> bool:
    """Whether the weights of two layers have a common start.

    Their cosine is then at least 0.2, and at least five times 1/√n, the standard deviation of that of n independent
    weights.

    >>> import torch
    >>> from exml.engine import related
    >>> first, one, other = torch.randn(3, 100, generator=torch.Generator().manual_seed(0)).unbind()
    >>> related(first + one, first + other), related(one, other)
    (True, False)
    """
    least = max(_RELATED, _CHANCE / math.sqrt(weight.numel()))
    return float(functional.cosine_similarity(weight.flatten(), start.to(weight).flatten(), dim=0)) >= least


def learned_decay(weight: Float[Tensor, "outputs inputs"], start: Float[Tensor, "outputs inputs"]) -> float:
    """γ at which ``weight - γ start`` is nearest to a matrix of half the full rank, within [0.5, 1.25].

    It minimizes the sum of the smaller half of the singular values, by golden-section search to 1e-4. For weights of
    SGD with coupled weight decay it is ``(1 - learning rate * decay) ** steps`` up to momentum; for the weights of
    another expert as start, it may be above 1.

    >>> import torch
    >>> from exml.engine.reading import learned_decay
    >>> start, learned = torch.randn(8, 20), torch.randn(8, 2) @ torch.randn(2, 20)
    >>> round(learned_decay(0.9 * start + learned, start), 3)
    0.9
    """

    def rest(decay: float) -> float:
        return float(torch.linalg.svdvals(weight - decay * start)[(len(weight) + 1) // 2 :].sum())

    ratio, low, high = (math.sqrt(5) - 1) / 2, 0.5, 1.25
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [rest(decay) for decay in inner]
    while high - low > 1e-4:
        if values[0] < values[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            values = [rest(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            values = [values[1], rest(inner[1])]
    return (low + high) / 2


def row_space_typicality(
    inputs: Tensor, layer: nn.Module, basis: Float[Tensor, "rank inputs"]
) -> Float[Tensor, " batch"]:
    """``-log(1 - ‖V a‖² / ‖a‖²)`` of the inputs of a layer; energies are summed over tokens or patches.

    >>> import torch
    >>> from exml.engine.reading import row_space_typicality
    >>> layer = torch.nn.Linear(2, 1)
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

    >>> import math, torch
    >>> from exml.engine.reading import matched_temperature
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


@torch.no_grad()
def _layers(expert: Expert) -> tuple[str | None, str | None]:
    """The names of the classifier and of the narrowing layer, found by a forward pass."""
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
    return classifier, (found["linear"][:1] or found["convolution"][-1:] or [None])[0]


def _narrows(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.out_features < layer.in_features
    if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
        return False
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and layer.out_channels < layer.weight[0].numel()


def _row_space(weight: Tensor) -> Float[Tensor, "rank inputs"]:
    _, values, rows = torch.linalg.svd(weight, full_matrices=False)
    return rows[values > 1e-5 * values[0]]
