"""The settings of distillation: optimizer, schedule, number of steps."""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from attrs.validators import instance_of
from torch import nn

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.serialization import OMIT_DEFAULT
from exml.core.validators import in_range, one_of, positive_int


@component
@attrs.frozen
class Training:
    """The settings of one experience's distillation (Algorithm 1, lines 6 to 12).

    Args:
        iterations: n_iter, optimizer steps in each experience.
        batch_size: samples drawn from the buffer for each step, with replacement.
        learning_rate: the maximum of the schedule.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``; a new one in each experience.
        momentum: of SGD, in [0, 1].
        weight_decay: at least 0.
        schedule: ``"constant"``, ``"cosine"`` (down to 0), or ``"one-cycle"`` (up for the first 30 %, then cosine).
        views: 0: every step augments its images and runs the teachers. V > 0: steps draw from a bank, filled once per
            experience, of V augmented views of every image in the buffer with the teachers' targets. It takes V times
            the memory of the buffer, and saves time if an experience draws more than V times its number of images.
        clip_norm: the maximum norm of the whole gradient; None does not clip.
        ridge: r > 0: before the first step of an experience, set the rows of the student's last linear layer for the
            classes with targets ỹ to ``argmin Σ ‖W φ + b - ỹ‖² + λ ‖W‖²``, where φ are the features in evaluation mode
            and λ is r times the mean over the features of ``Σ (φ - mean φ)²``. Training then distorts the features
            less (Kumar et al., "Fine-tuning can distort pretrained features", 2022). None: keep the layer.
        hints: h > 0: add h times the error of predicting the expert's feature maps from the student's, each relative to
            the variance of the expert's, through a linear map that is trained with the student (Romero et al.,
            "FitNets", 2015). A student with other weights than the experts then needs far fewer steps. See
            :class:`exml.engine.Hints`. Not together with ``views``, and steps are not compiled.
        stored: compute targets once, when an image enters the buffer, and store them with it: later experts add their
            logits to the stored ones, which the previous student then does not distort. Steps do not augment images;
            with V ``views``, every generated image enters the buffer as V augmented ones. Not together with ``hints``;
            the combiner must define the logits of all known classes.
        margin: m >= 0: if only one of the two teachers knows the class that an image was generated for, the targets of
            the classes that only the other knows are lowered by m. The student then separates the classes of different
            experts by more than their logits do.
        sampling: ``"uniform"``, or ``"class-balanced"``: the classes to which the targets assign images are drawn
            equally often (Kang et al., "Decoupling representation and classifier for long-tailed recognition", 2020).
            A class with less than a tenth of the mean number of images is drawn less often, in proportion to its
            images, so that a few of them are not learned by heart. Requires ``stored`` or ``views``, which give the
            targets before the first step.
        batch_norm: the student normalizes by the statistics of the ``"batch"``, which update the running ones, or by
            the ``"running"`` ones, which stay fixed. The running statistics of a copied expert are those of real data.

    >>> from exml import Training
    >>> training = Training(iterations=100, batch_size=32, learning_rate=0.1, schedule="cosine")
    >>> [round(training.learning_rate_at(k), 3) for k in (0, 50, 99)]
    [0.1, 0.05, 0.0]
    """

    iterations: int = attrs.field(validator=positive_int())
    batch_size: int = attrs.field(validator=positive_int(2**16))
    learning_rate: float = attrs.field(validator=in_range(0, open_low=True))
    optimizer: Literal["sgd", "adam", "adamw"] = attrs.field(default="sgd", validator=one_of("sgd", "adam", "adamw"))
    momentum: float = attrs.field(default=0.0, validator=in_range(0, 1))
    weight_decay: float = attrs.field(default=0.0, validator=in_range(0))
    schedule: Literal["constant", "cosine", "one-cycle"] = attrs.field(
        default="constant", validator=one_of("constant", "cosine", "one-cycle")
    )
    views: int = attrs.field(default=0, validator=in_range(0, integer=True))
    clip_norm: float | None = attrs.field(default=None, validator=in_range(0, open_low=True, optional=True))
    ridge: float | None = attrs.field(default=None, validator=in_range(0, open_low=True, optional=True))
    hints: float = attrs.field(default=0.0, validator=in_range(0))
    stored: bool = attrs.field(default=False, validator=instance_of(bool), metadata=OMIT_DEFAULT)
    margin: float = attrs.field(default=0.0, validator=in_range(0), metadata=OMIT_DEFAULT)
    sampling: Literal["uniform", "class-balanced"] = attrs.field(
        default="uniform", validator=one_of("uniform", "class-balanced"), metadata=OMIT_DEFAULT
    )
    batch_norm: Literal["batch", "running"] = attrs.field(default="batch", validator=one_of("batch", "running"))

    def __attrs_post_init__(self) -> None:
        if self.hints and self.views:
            expected = "Training.hints without Training.views, since feature maps are not stored"
            raise SettingError(expected=expected, got=f"{self.views} views", remedy="set one of them to 0")
        if self.stored and self.hints:
            expected = "Training.stored without hints, since feature maps are not stored"
            raise SettingError(
                expected=expected, got=f"hints={self.hints}", remedy="set hints to 0, or stored to False"
            )

        if self.sampling == "class-balanced" and not self.stored and not self.views:
            expected = "Training.views or Training.stored, since the classes to balance are those of the targets"
            got, remedy = "neither, with sampling='class-balanced'", "set views to at least 1, or sampling to 'uniform'"
            raise SettingError(expected=expected, got=got, remedy=remedy)

    def images_for(self, share: int) -> int:
        """How many images to generate for ``share`` places in the buffer; stored views take a place each."""
        return math.ceil(share / self.views) if self.stored and self.views else share

    def make_optimizer(self, student: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer over the student's parameters; :meth:`set_learning_rate` sets its rate before each step."""
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        device = parameters[0].device if parameters else torch.device("cpu")
        fused = device.type in ("cpu", "cuda")
        # On a GPU the rate is a tensor, which a captured step reads at each replay.
        rate = torch.tensor(self.learning_rate, device=device) if device.type == "cuda" else self.learning_rate
        decay = self.weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, rate, momentum=self.momentum, weight_decay=decay, fused=fused)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, rate, weight_decay=decay, fused=fused, capturable=device.type == "cuda")

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Set the learning rate of a step in an optimizer of :meth:`make_optimizer`, without synchronizing."""
        for group in optimizer.param_groups:
            rate = self.learning_rate_at(iteration)
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate

    def learning_rate_at(self, iteration: int) -> float:
        """The learning rate of a step (from 0). It depends on the step alone, so resuming needs no state."""
        progress = iteration / self.iterations
        if self.schedule == "constant":
            return self.learning_rate
        warm_up = 0.3 if self.schedule == "one-cycle" else 0.0
        if progress < warm_up:
            return self.learning_rate * (iteration + 1) / (warm_up * self.iterations + 1)
        return self.learning_rate * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2
