"""Data impression: images for soft targets that follow the similarity of the classes (Sec. 4)."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.core.shapes import Labels, Logits
from exml.core.validators import in_range, one_of, positive_int
from exml.generators._common import balanced, check_size
from exml.generators._head import class_templates
from exml.generators._inversion import invert_all
from exml.generators.gaussian_noise import GaussianNoise
from exml.protocols import STANDALONE, Augmentation, GenerationContext, Generator

_LEAST = 1e-3  # of a concentration at β = 1: a Dirichlet distribution has none that is 0


@component
@attrs.frozen
class DataImpression:
    """Optimise images towards soft targets drawn from a Dirichlet distribution for each class (Sec. 4).

    Rows w_k of the classifier's weight are templates of the expert's own classes. Their cosine similarities
    C(k, j) = w_k·w_j / (‖w_k‖ ‖w_j‖), each row scaled to [0, 1] by its least and its greatest value and held above
    0.001, give α^k = β c_k. A target y^di ~ Dir(α^k) is drawn for each image, k in turn over the classes; minimised is
    the distillation loss -Σ_j y^di_j log softmax(f_i^S(x) / τ)_j + priors, over all output units; y_syn = argmax y^di,
    a class that the expert knows unless ``classes="all"``. Rows are scaled as in Nayak et al., "Zero-Shot Knowledge
    Distillation in Deep Networks" (2019); with two classes this leaves targets that are nearly one-hot.

    Args:
        beta: β; small values give peaked targets, large ones give targets near c_k / Σ c_k. At least 0.05.
        iterations: Adam steps for each image.
        learning_rate: of Adam, in the expert's normalised units.
        temperature: τ, of the softmax.
        batch_size: images optimised together; memory bounds it, and priors on batch statistics want it large.
        start: makes the images to start from (its labels are not used); None: Gaussian noise of standard deviation 1 in
            normalised units.
        clamp: pixels are held within ``[-clamp, clamp]`` in normalised units; the reference code has 3.
        head: qualified name of the classifier, an ``nn.Linear`` or 1x1 ``nn.Conv2d``; None finds it.
        stop_at: an image is finished once the class of its label has a higher probability than this (at temperature 1,
            as augmented), whatever its target says of the others; None: all run to the end.
        classes: whose templates are compared, and between which classes a target is shared out: those of the
            ``"known"`` classes, or of ``"all"`` output units, as in the reference code. Then some of the labels are
            classes that the expert never saw, and the more of them the smaller β is.
        augmentation: of the images in the making, in normalised units; None: the strategy's.

    >>> expert = Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), (2, 4, 6), (1, 8, 8))
    >>> samples = DataImpression(iterations=20)(expert, 4, 0)
    >>> samples.targets.shape, bool((samples.targets.argmax(1) == samples.labels).all())
    (torch.Size([4, 7]), True)
    """

    beta: float = attrs.field(default=10.0, validator=in_range(0.05))
    iterations: int = attrs.field(default=500, validator=positive_int())
    learning_rate: float = attrs.field(default=0.1, validator=in_range(0, open_low=True))
    temperature: float = attrs.field(default=2.0, validator=in_range(0, open_low=True))
    batch_size: int = attrs.field(default=512, validator=positive_int())
    start: Generator | None = None
    clamp: float | None = attrs.field(default=None, validator=in_range(0, open_low=True, optional=True))
    head: str | None = None
    stop_at: float | None = attrs.field(default=None, validator=in_range(0, 1, open_low=True, optional=True))
    classes: Literal["known", "all"] = attrs.field(default="known", validator=one_of("known", "all"))
    augmentation: Augmentation | None = None
    uses_priors = True

    @property
    def uses_real_data(self) -> bool:
        """Whether ``start`` does."""
        return self.start is not None and self.start.uses_real_data

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples in pixel units; their ``targets`` are y^di over the global class ids.

        Raises:
            BufferSizeError: when ``size`` is less than 1.
            ExpertError: when the expert's classifier cannot be found.
            ShapeError: when the expert does not take the images of ``start``.
            NonFiniteError: when an image ends with NaN or infinity.
        """
        check_size(size)
        turn = balanced(size, len(expert.classes), torch.device("cpu"))
        units, ids, rows = _compared(expert, self.classes)
        concentrations = self.beta * class_similarity(class_templates(expert, self.head, units))
        # Drawn on the CPU, in float64: small concentrations give probabilities that float32 would round to 0.
        draws = make_generator("cpu", seed, "data-impression")
        drawn: Tensor = torch._sample_dirichlet(concentrations.cpu()[rows[turn]], generator=draws)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        labels = ids[drawn.argmax(1)].to(expert.device)
        own = drawn.float().to(expert.device)
        wanted = own.new_zeros(size, len(expert.outputs)).index_copy_(1, units.to(expert.device), own)
        top = wanted.argmax(1, keepdim=True)

        def objective(logits: Logits, rows: Labels) -> Tensor:
            return -(wanted[rows] * (logits / self.temperature).log_softmax(1)).sum(1)

        def finished(logits: Logits, rows: Labels) -> Tensor:
            return logits.softmax(1).gather(1, top[rows]).squeeze(1) > (self.stop_at or 1.0)

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
        targets = own.new_zeros(size, int(ids.max()) + 1).index_copy_(1, ids.to(expert.device), own)
        return Samples.of(images, labels, task=expert.task, experience=context.experience, targets=targets)


def _compared(
    expert: Expert, classes: Literal["known", "all"]
) -> tuple[Int[Tensor, " units"], Int[Tensor, " units"], Int[Tensor, " known"]]:
    """Output units that a target is shared out between, their class ids, and where the expert's classes are there."""
    if classes == "known":
        return expert.own_units, expert.class_ids, torch.arange(len(expert.classes))
    named = [(unit, name) for unit, name in enumerate(expert.outputs) if name is not None]
    ids = [name for _, name in named]
    places = torch.tensor([ids.index(known) for known in expert.classes])
    return torch.tensor([unit for unit, _ in named]), torch.tensor(ids), places


def class_similarity(templates: Float[Tensor, "classes hidden"]) -> Float[Tensor, "classes classes"]:
    """Cosine similarities of the templates, each row scaled to [0.001, 1], in float64.

    >>> class_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])).round(decimals=3)
    tensor([[1.0000, 0.0010, 0.7070],
            [0.0010, 1.0000, 0.7070],
            [0.0010, 0.0010, 1.0000]], dtype=torch.float64)
    """
    unit = normalize(templates.double(), dim=1)
    cosine = unit @ unit.T
    least = cosine.amin(1, keepdim=True)
    spread = cosine.amax(1, keepdim=True) - least
    # Templates that are all parallel (one class alone, for one) are all alike.
    alike = spread < torch.finfo(torch.float32).eps
    return torch.where(alike, 1.0, (cosine - least) / spread.where(~alike, 1.0)).clamp_min(_LEAST)
