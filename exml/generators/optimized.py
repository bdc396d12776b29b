"""Generators that optimize images: model inversion, and data impression for soft targets (Sec. 4)."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from exml.core.errors import ExpertError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.core.shapes import Labels, Logits
from exml.core.validators import in_range, one_of
from exml.engine import Inversion, frozen
from exml.generators._common import check_size, class_turns
from exml.models.classifier import candidates, final_layers
from exml.protocols import STANDALONE, GenerationContext

_LEAST = 1e-3  # concentration at β = 1; those of a Dirichlet distribution must be positive


@component
@attrs.frozen(kw_only=True)
class ModelInversion(Inversion):
    r"""Optimize images until the expert predicts their class (Sec. 4).

    .. math:: \min_x \, \mathcal{L}_{CE}\left(f_i^S(x) / \tau, y\right) + \sum_k R_k(x)

    The :math:`R_k` are priors. The labels y are the expert's classes in turn, so every mini-batch is balanced, or
    random ones if there are fewer images than classes. They do not depend on ``start``.

    Args:
        classes: the output units in the softmax: ``"all"``, as the paper writes f(x), or those of the ``"known"``
            classes. With ``"all"``, images also learn to suppress untrained units.
        iterations: this and the remaining settings are those of :class:`exml.engine.Inversion`.

    >>> import exml, torch
    >>> from exml.generators import ModelInversion
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = ModelInversion(iterations=20)(expert, 4, 0)
    >>> samples.labels.tolist(), bool((expert.predicted_ids(samples.images) == samples.labels).all())
    ([3, 7, 3, 7], True)
    """

    classes: Literal["all", "known"] = attrs.field(default="all", validator=one_of("all", "known"))

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; raises a NonFiniteError if an image ends with NaN or infinity."""
        check_size(size)
        positions = class_turns(size, len(expert.classes), seed).to(expert.device)
        units = positions if self.classes == "known" else expert.own_units.to(expert.device)[positions]

        def view(logits: Logits) -> Float[Tensor, "batch units"]:
            return expert.own_logits(logits) if self.classes == "known" else logits

        def objective(logits: Logits, rows: Labels) -> Tensor:
            return cross_entropy(view(logits) / self.temperature, units[rows], reduction="none")

        def probability(logits: Logits, rows: Labels) -> Tensor:
            return view(logits).softmax(1).gather(1, units[rows, None]).squeeze(1)

        images = self.optimize(expert, size, seed, context, objective, probability)
        labels = expert.class_ids.to(expert.device)[positions]
        return Samples.of(images, labels, task=expert.task, experience=context.experience)


@component
@attrs.frozen
class DataImpression(Inversion):
    r"""Optimize images towards soft targets that are drawn from a Dirichlet distribution for each class (Sec. 4).

    Rows :math:`w_k` of the classifier's weight are templates of the expert's own classes. The rows :math:`c_k` of their
    cosine similarities, each scaled to [0, 1] by its minimum and maximum and clamped above 0.001, give a target for
    each image, :math:`k` in turn over the classes:

    .. math:: y^{di} \sim \mathrm{Dir}(\beta c_k)

    .. math:: C(k, j) = \frac{w_k \cdot w_j}{\lVert w_k \rVert \lVert w_j \rVert}

    The images minimize the distillation loss over all output units, with the priors :math:`R_k`:

    .. math:: -\sum_j y^{di}_j \log \, \mathrm{softmax}\left(f_i^S(x) / \tau\right)_j + \sum_k R_k(x)

    Their labels are the argmax of :math:`y^{di}`. The scaling of rows follows Nayak et al., "Zero-Shot Knowledge
    Distillation in Deep Networks" (2019).

    Args:
        beta: β; small values give peaked targets, large ones give targets near :math:`c_k / \sum c_k`. At least 0.05.
        head: qualified name of the classifier, an ``nn.Linear`` or 1x1 ``nn.Conv2d``; None finds it.
        classes: the classes of a target: the ``"known"`` classes, or those of ``"all"`` output units, as in the
            reference code; then some labels are classes that the expert never saw, more of them for smaller β.
        iterations: this and the remaining settings are those of :class:`exml.engine.Inversion`; ``stop_at`` is compared
            with the probability of y_syn.

    >>> import exml, torch
    >>> from exml.generators import DataImpression
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), (2, 4, 6), (1, 8, 8))
    >>> samples = DataImpression(iterations=20)(expert, 4, 0)
    >>> samples.targets.shape, bool((samples.targets.argmax(1) == samples.labels).all())
    (torch.Size([4, 7]), True)
    """

    beta: float = attrs.field(default=10.0, validator=in_range(0.05))
    head: str | None = attrs.field(default=None, kw_only=True)
    classes: Literal["known", "all"] = attrs.field(default="known", validator=one_of("known", "all"), kw_only=True)

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; their ``targets`` are y^di over the global class ids.

        Raises an ExpertError if the classifier cannot be found, and a NonFiniteError if an image ends with NaN or
        infinity.
        """
        check_size(size)
        turn = class_turns(size, len(expert.classes), seed)
        units, ids, rows = _compared(expert, self.classes)
        concentrations = self.beta * class_similarity(class_templates(expert, self.head, units))
        # On the CPU in float64: float32 would round the probabilities of small concentrations to 0.
        draws = make_generator("cpu", seed, "data-impression")
        drawn: Tensor = torch._sample_dirichlet(concentrations.cpu()[rows[turn]], generator=draws)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        labels = ids[drawn.argmax(1)].to(expert.device)
        own = drawn.float().to(expert.device)
        wanted = own.new_zeros(size, len(expert.outputs)).index_copy_(1, units.to(expert.device), own)
        top = wanted.argmax(1, keepdim=True)

        def objective(logits: Logits, rows: Labels) -> Tensor:
            return -(wanted[rows] * (logits / self.temperature).log_softmax(1)).sum(1)

        def probability(logits: Logits, rows: Labels) -> Tensor:
            return logits.softmax(1).gather(1, top[rows]).squeeze(1)

        images = self.optimize(expert, size, seed, context, objective, probability)
        targets = own.new_zeros(size, int(ids.max()) + 1).index_copy_(1, ids.to(expert.device), own)
        return Samples.of(images, labels, task=expert.task, experience=context.experience, targets=targets)


def _compared(
    expert: Expert, classes: Literal["known", "all"]
) -> tuple[Int[Tensor, " units"], Int[Tensor, " units"], Int[Tensor, " known"]]:
    """The output units of a target, their class ids, and the positions of the expert's classes among them."""
    if classes == "known":
        return expert.own_units, expert.class_ids, torch.arange(len(expert.classes))
    named = [(unit, name) for unit, name in enumerate(expert.outputs) if name is not None]
    ids = [name for _, name in named]
    places = torch.tensor([ids.index(known) for known in expert.classes])
    return torch.tensor([unit for unit, _ in named]), torch.tensor(ids), places


def class_similarity(templates: Float[Tensor, "classes hidden"]) -> Float[Tensor, "classes classes"]:
    """Cosine similarities of the templates, each row scaled to [0.001, 1], in float64.

    >>> import torch
    >>> from exml.generators.optimized import class_similarity
    >>> class_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])).round(decimals=3)
    tensor([[1.0000, 0.0010, 0.7070],
            [0.0010, 1.0000, 0.7070],
            [0.0010, 0.0010, 1.0000]], dtype=torch.float64)
    """
    unit = normalize(templates.double(), dim=1)
    cosine = unit @ unit.T
    least = cosine.amin(1, keepdim=True)
    spread = cosine.amax(1, keepdim=True) - least
    # All templates are parallel, as with a single class.
    alike = spread < torch.finfo(torch.float32).eps
    return torch.where(alike, 1.0, (cosine - least) / spread.where(~alike, 1.0)).clamp_min(_LEAST)


def class_templates(expert: Expert, head: str | None, units: Int[Tensor, " units"]) -> Tensor:
    """The rows w_k of the classifier's weight for some output units, ``(len(units), hidden)``.

    Without ``head``, the classifier is the only candidate, or the only one that computes the expert's output.
    """
    layers = candidates(expert.module, len(expert.outputs))
    if head is not None or len(layers) < 2:
        found = [name for name in layers if head in (None, name, name.removeprefix("module."))]  # of an adapted expert
    else:
        gray = expert.normalize(torch.full((1, *expert.image_shape), 0.5, device=expert.device))
        with frozen(expert.module):
            found = final_layers(expert.module, layers, gray)
    if len(found) != 1:
        raise ExpertError(
            expected=f"one classifier in expert {expert.name!r}: an nn.Linear or 1x1 nn.Conv2d with "
            f"{len(expert.outputs)} outputs" + (f" named {head!r}" if head is not None else ""),
            got=f"the candidates {', '.join(map(repr, layers))}" if layers else "no such layer",
            remedy="name the layer with DataImpression(head=...)" if layers else "use ModelInversion for this expert",
        )
    weight = layers[found[0]].weight.detach().flatten(1)
    return weight[units.to(weight.device)]
