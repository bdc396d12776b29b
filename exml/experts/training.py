"""Trains experts (appendix A)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import attrs
import torch
from torch import Tensor, nn

from exml.core.admission import guarded
from exml.core.errors import ExpertError, NonFiniteError
from exml.core.expert import Expert
from exml.core.outputs import logits_of
from exml.core.registry import component
from exml.core.rng import derive_seed, global_seed, make_generator
from exml.core.samples import Samples
from exml.core.validators import in_range, one_of, positive_int
from exml.experts._checkpoint import TrainingCheckpoint
from exml.models import channels_last
from exml.protocols import Augmentation


@component
@attrs.frozen
class ExpertTraining:
    """Plain stochastic gradient descent on the cross-entropy over all output units (appendix A).

    Args:
        learning_rate: the initial learning rate, > 0.
        momentum: in [0, 1].
        weight_decay: >= 0.
        schedule: ``"constant"``, or ``"cosine"``: down to 0 along half a cosine.
        augmentation: of the images, in pixel units.
        precision: of the network. ``"bfloat16"`` means autocast; the weights and the loss stay float32.

    >>> from exml.experts import ExpertTraining
    >>> ExpertTraining(epochs=4)
    ExpertTraining(epochs=4, batch_size=32, learning_rate=0.1, momentum=0.9, weight_decay=0.0005, schedule='constant',
        augmentation=None, precision='float32')
    """

    epochs: int = attrs.field(default=10, validator=positive_int())
    batch_size: int = attrs.field(default=32, validator=positive_int(2**16))
    learning_rate: float = attrs.field(default=0.1, validator=in_range(0, open_low=True))
    momentum: float = attrs.field(default=0.9, validator=in_range(0, 1))
    weight_decay: float = attrs.field(default=5e-4, validator=in_range(0))
    schedule: Literal["constant", "cosine"] = attrs.field(default="constant", validator=one_of("constant", "cosine"))
    augmentation: Augmentation | None = None
    precision: Literal["float32", "bfloat16"] = attrs.field(default="float32", validator=one_of("float32", "bfloat16"))

    def __call__(
        self,
        expert: Expert,
        samples: Samples,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        /,
    ) -> None:
        """Train the expert's module in place, on its device, and leave it in evaluation mode.

        The same seed gives the same weights on a CPU with the same number of threads, also when training resumes from a
        checkpoint. A last mini-batch of a single image is dropped, because batch norm cannot use it.

        Args:
            expert: its module has the initial weights.
            samples: of its classes only.
            seed: for the order of the images, augmentation and dropout.
            progress: called after each epoch with the number of epochs done and of all.
            checkpoint: a file that is written every 10 seconds, to resume from. The caller deletes it.

        Raises:
            ExpertError: without samples, or with a sample of a class that the expert does not know.
            NonFiniteError: when the loss was NaN or infinite in an epoch.
            CheckpointError: when the checkpoint cannot be written.
        """
        device = expert.device
        samples = samples.to(device)
        units = _units(expert, samples)
        parameters = [parameter for parameter in expert.module.parameters() if parameter.requires_grad]
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.SGD(
            parameters, self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
        )
        saved = None if checkpoint is None else TrainingCheckpoint(checkpoint, self, expert, samples, seed)
        draws = torch.Generator(device)
        # Dropout draws from this generator. Seeding those of all devices takes too long in every step.
        reseed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
        steps = max(1, len(samples) // self.batch_size + (len(samples) % self.batch_size > 1))
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        expert.module.train()
        with global_seed(seed, "expert-training"), channels_last(expert.module, optimizer):
            begun = 0 if saved is None else saved.load(expert.module, optimizer)
            for epoch in range(begun // steps, self.epochs):
                generator = make_generator(device, seed, "expert-training", epoch)
                order = torch.randperm(len(samples), generator=generator, device=device)
                batches = order.split(self.batch_size)[:steps]
                total = torch.zeros((), device=device)
                for step in range(max(0, begun - epoch * steps), steps):
                    step_seed = derive_seed(seed, "expert-training", epoch, step)
                    draws.manual_seed(step_seed)
                    reseed(step_seed)
                    if self.schedule == "cosine":
                        done = (epoch + step / steps) / self.epochs
                        optimizer.param_groups[0]["lr"] = self.learning_rate * ((1 + math.cos(math.pi * done)) / 2)
                    images = samples.pixels(batches[step])
                    if self.augmentation is not None:
                        images = self.augmentation(images, draws)
                    with autocast:
                        logits = logits_of(expert.module(expert.normalize(images)))
                    loss = nn.functional.cross_entropy(logits.to(images.dtype), units[batches[step]])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    total += loss.detach()
                    if saved is not None and saved.due:
                        _require_finite(total, expert, epoch)
                        saved.save(expert.module, optimizer, epoch * steps + step + 1)
                _require_finite(total, expert, epoch)
                if progress is not None:
                    progress(epoch + 1, self.epochs)
        expert.module.eval()


def train_expert(
    module: nn.Module,
    samples: Samples,
    *,
    training: ExpertTraining | None = None,
    seed: int = 0,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    task: int | None = None,
    name: str = "expert",
) -> Expert:
    """Train a module, in place, on the samples of its classes.

    For progress or a checkpoint, call an :class:`ExpertTraining` with the :func:`untrained_expert`, which documents the
    other arguments.

    Args:
        training: by default an :class:`ExpertTraining` with the settings of appendix A.
        seed: for the order of the images, augmentation and dropout.

    Raises:
        ExpertError: as :func:`untrained_expert`.
        NonFiniteError: when the loss was NaN or infinite.

    >>> import exml, torch
    >>> from exml.experts import ExpertTraining, train_expert
    >>> from exml.models import LeNet5
    >>> samples = exml.Samples.of(torch.rand(8, 1, 16, 16), torch.tensor([3, 7] * 4))
    >>> train_expert(LeNet5(1, 2, 16), samples, training=ExpertTraining(epochs=1, learning_rate=0.01)).outputs
    (3, 7)
    """
    expert = untrained_expert(module, samples, mean=mean, std=std, task=task, name=name)
    (training or ExpertTraining())(expert, samples, seed)
    return expert


def untrained_expert(
    module: nn.Module,
    samples: Samples,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    task: int | None = None,
    name: str = "expert",
) -> Expert:
    """The expert that training on some samples starts from.

    Args:
        module: takes normalized images. Its head has one unit per class among the labels, in ascending order of ids,
            or more: then unit k is class k.
        mean: like ``std`` (> 0), of each channel, in pixel units; one number for all channels is enough.
        task: the task label t_i.

    Raises:
        ExpertError: when the module does not take the images, or its head has no unit for one of the classes.

    >>> import exml, torch
    >>> from exml.experts import untrained_expert
    >>> from exml.models import LeNet5
    >>> samples = exml.Samples.of(torch.rand(8, 1, 16, 16), torch.tensor([3, 7] * 4))
    >>> untrained_expert(LeNet5(1, 10, 16), samples).outputs
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    classes: tuple[int, ...] = tuple(samples.labels.unique().tolist())
    shape = tuple(samples.images.shape[1:])
    expert = Expert(module, classes, shape, outputs=classes, mean=mean, std=std, task=task, name=name)
    module.eval()
    expected = f"a module that takes images {expert.image_shape} and returns logits (expert {expert.name!r})"
    with torch.no_grad(), guarded(module, expected, "choose a module for images of this shape"):
        width = expert.logits(samples[:1].to(expert.device).pixels()).shape[1]
    return expert if width == len(classes) else attrs.evolve(expert, outputs=tuple(range(width)))


def _require_finite(total: Tensor, expert: Expert, epoch: int) -> None:
    if not bool(total.isfinite()):
        expected = f"a finite loss (expert {expert.name!r}, epoch {epoch + 1})"
        remedy = "lower the learning rate, or look for NaN among the images"
        raise NonFiniteError(expected=expected, got=str(float(total)), remedy=remedy)


def _units(expert: Expert, samples: Samples) -> Tensor:
    """The output unit of each sample's class."""
    found = set(samples.labels.tolist())
    if not found or not found <= set(expert.classes):
        expected = f"samples of the classes {expert.classes} (expert {expert.name!r})"
        got = f"samples of {sorted(found)}" if found else "none"
        raise ExpertError(expected=expected, got=got, remedy="give it all samples of its own classes and no others")
    unit_of = torch.full((max(expert.classes) + 1,), -1)
    unit_of[expert.class_ids] = expert.own_units
    return unit_of.to(samples.labels.device)[samples.labels]
