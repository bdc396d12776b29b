"""Model inversion: images that the expert assigns to a class with confidence (Sec. 4)."""

from __future__ import annotations

from typing import Literal

import attrs
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.samples import Samples
from exml.core.shapes import Labels, Logits
from exml.core.validators import one_of
from exml.engine import Inversion
from exml.generators._common import balanced, check_size
from exml.protocols import STANDALONE, GenerationContext


@component
@attrs.frozen(kw_only=True)
class ModelInversion(Inversion):
    """Optimize images until the expert predicts their class: min L_CE(f_i^S(x) / τ, y) + priors (Sec. 4).

    The labels y are the expert's classes in turn, so every mini-batch is balanced. They do not depend on ``start``.

    Args:
        classes: the output units in the softmax: ``"all"``, as the paper writes f(x), or those of the ``"known"``
            classes. With ``"all"``, images also learn to suppress untrained units.
        iterations: this and the remaining settings are those of :class:`exml.engine.Inversion`.

    >>> import torch
    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = ModelInversion(iterations=20)(expert, 4, 0)
    >>> samples.labels.tolist(), bool((expert.labels(samples.images) == samples.labels).all())
    ([3, 7, 3, 7], True)
    """

    classes: Literal["all", "known"] = attrs.field(default="all", validator=one_of("all", "known"))

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; raises a NonFiniteError if an image ends with NaN or infinity."""
        check_size(size)
        positions = balanced(size, len(expert.classes), expert.device)
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
