"""Model inversion: images that the expert takes for a class with confidence (Sec. 4)."""

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
from exml.core.validators import in_range, one_of, positive_int
from exml.generators._common import balanced, check_size
from exml.generators._inversion import invert_all
from exml.generators.gaussian_noise import GaussianNoise
from exml.protocols import STANDALONE, Augmentation, GenerationContext, Generator


@component
@attrs.frozen
class ModelInversion:
    """Optimise images until the expert predicts their class: min L_CE(f_i^S(x) / τ, y) + priors (Sec. 4).

    The labels y are the expert's classes in turn, so that every mini-batch is balanced. They are the same whatever the
    images start from: labels that ``start`` gives are not used.

    Args:
        iterations: Adam steps for each image.
        learning_rate: of Adam, in the expert's normalised units.
        temperature: τ, of the softmax.
        batch_size: images optimised together; memory bounds it, and priors on batch statistics want it large.
        start: makes the images to start from; None: Gaussian noise of standard deviation 1 in normalised units.
        stop_at: an image whose class is predicted with a higher probability than this (at temperature 1, as augmented)
            is finished and changes no more; None: all run to the end. The paper shows images made with 0.99.
        clamp: pixels are held within ``[-clamp, clamp]`` in normalised units; the reference code has 3.
        classes: the output units in the softmax: ``"all"``, as the paper writes f(x), or only those of the ``"known"``
            classes. They differ for a head with units that were never trained: with ``"all"``, images also learn to
            leave those cold.
        augmentation: of the images in the making, in normalised units; None: the strategy's.

    >>> import torch
    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = ModelInversion(iterations=20)(expert, 4, 0)
    >>> samples.labels.tolist(), bool((expert.labels(samples.images) == samples.labels).all())
    ([3, 7, 3, 7], True)
    """

    iterations: int = attrs.field(default=500, validator=positive_int())
    learning_rate: float = attrs.field(default=0.1, validator=in_range(0, open_low=True))
    temperature: float = attrs.field(default=2.0, validator=in_range(0, open_low=True))
    batch_size: int = attrs.field(default=512, validator=positive_int())
    start: Generator | None = None
    stop_at: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    clamp: float | None = attrs.field(default=None, validator=in_range(0, open_low=True, optional=True))
    classes: Literal["all", "known"] = attrs.field(default="all", validator=one_of("all", "known"))
    augmentation: Augmentation | None = None
    uses_priors = True

    @property
    def uses_real_data(self) -> bool:
        """Whether ``start`` does."""
        return self.start is not None and self.start.uses_real_data

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units, labels balanced over the expert's classes.

        Raises:
            BufferSizeError: when ``size`` is less than 1.
            ShapeError: when the expert does not take the images of ``start``.
            NonFiniteError: when an image ends with NaN or infinity.
        """
        check_size(size)
        positions = balanced(size, len(expert.classes), expert.device)
        units = positions if self.classes == "known" else expert.own_units.to(expert.device)[positions]

        def view(logits: Logits) -> Float[Tensor, "batch units"]:
            return expert.own_logits(logits) if self.classes == "known" else logits

        def objective(logits: Logits, rows: Labels) -> Tensor:
            return cross_entropy(view(logits) / self.temperature, units[rows], reduction="none")

        def finished(logits: Logits, rows: Labels) -> Tensor:
            return view(logits).softmax(1).gather(1, units[rows, None]).squeeze(1) > (self.stop_at or 1.0)

        images = invert_all(
            expert,
            size,
            seed,
            context,
            objective,
            start=GaussianNoise() if self.start is None else self.start,
            iterations=self.iterations,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            clamp=self.clamp,
            augmentation=self.augmentation,
            finished=None if self.stop_at is None else finished,
        )
        labels = expert.class_ids.to(expert.device)[positions]
        return Samples.of(images, labels, task=expert.task, experience=context.experience)
