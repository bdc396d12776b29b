"""A scenario (Sec. 5, Table 1): the experiences that the experts are trained on, and their test sets."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.errors import ConfigError, ExmlWarning, ExpertError
from exml.core.expert import Expert
from exml.core.ranks import ALONE, Ranks
from exml.core.rng import global_seed
from exml.core.samples import Samples
from exml.core.serialization import from_plain, to_plain
from exml.datasets import imagenet_weights
from exml.experts import (
    ExpertCard,
    ExpertProfile,
    ExpertStream,
    ExpertTraining,
    load_expert,
    read_card,
    save_expert,
    untrained_expert,
)
from exml.experts.card import card_checksum, metadata
from exml.models import Normalized, build, describe

_BATCH = 500
"""Images per forward pass when the accuracy is measured, and per update of a hash."""
_Progress = Callable[[int, int], None]


@attrs.frozen(eq=False)
class Experience:
    """One learning experience e_i (Sec. 2).

    Args:
        index: i, from 1.
        classes: global ids of its classes, in ascending order.
        task: the task label t_i, from 0; None in a scenario without tasks.
        train: the samples that its expert is trained on.
        test: the samples that the student is tested on.
    """

    index: int
    classes: tuple[int, ...]
    task: int | None
    train: Samples
    test: Samples


@attrs.frozen(eq=False)
class Scenario:
    """A stream of experiences, and how its experts are made.

    Args:
        experiences: in the order of the stream.
        classes: the number of classes; global ids are below it.
        image_shape: ``(channels, height, width)``.
        mean: like ``std``, of each channel over all training images, in pixel units.
        architecture: name and settings in :mod:`exml.models`, of experts and student alike; ``classes`` output units.
        training: of the experts.
        pretrained: whether modules start with :func:`exml.datasets.imagenet_weights`, except for their head.

    >>> from exml import scenarios
    >>> scenario = scenarios.load("digits-nc")
    >>> [experience.classes for experience in scenario.experiences]
    [(0, 5), (2, 3), (1, 7), (4, 6), (8, 9)]
    >>> scenario
    Scenario('digits-nc', 5 experiences, 10 classes, images 1x8x8)
    """

    name: str
    experiences: tuple[Experience, ...] = attrs.field(converter=tuple)
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    architecture: Mapping[str, Any]
    training: ExpertTraining
    pretrained: bool = False

    @property
    def tasks(self) -> tuple[tuple[int, ...], ...] | None:
        """The class ids of each task label; None in a scenario without tasks."""
        classes = {experience.task: experience.classes for experience in self.experiences}
        return None if None in classes else tuple(classes[task] for task in range(len(classes)))

    @property
    def shared_test(self) -> bool:
        """Whether several experiences have one test set, so that an image does not determine an expert."""
        return len({id(experience.test) for experience in self.experiences}) < len(self.experiences)

    def make_module(self, seed: int, *path: int | str) -> nn.Module:
        """A module of the scenario's architecture; the same seed and path give the same initial weights.

        Raises:
            DataError: when pretrained weights are missing and cannot be downloaded.
            SettingError: when there are no pretrained weights for the architecture.
        """
        module = self._blank_module(seed, *path)
        if self.pretrained:
            module.load_state_dict({**module.state_dict(), **imagenet_weights(self.architecture["name"])})
        return module

    def make_student(self, seed: int) -> Normalized:
        """A student of the experts' architecture with initial weights of its own, for images in pixel units."""
        return Normalized(self.make_module(seed, "student"), self.mean, self.std)

    def profile(self) -> ExpertProfile:
        """The profile of the scenario's experts, which are not trained for it. Pretrained weights are not needed."""
        module = self._blank_module(0)
        return ExpertProfile.from_experts(self._untrained(lambda: module, part) for part in self.experiences)

    def train_experts(
        self,
        seed: int = 0,
        folder: Path | str | None = None,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[int, int], None] | None = None,
        ranks: Ranks = ALONE,
        validation: Scenario | None = None,
    ) -> ExpertStream:
        """Train one expert on each experience, all from the same initial weights, as Param. Avg. needs it.

        Args:
            seed: for the initial weights and the training.
            folder: where experts are saved; by default they stay in memory. A finished expert with the same data,
                settings and seed is not trained again, and interrupted training resumes.
            progress: called with the number of epochs done and of all, over the whole stream.
            ranks: each trains a part of the experts, into a folder that all can read; without a folder each trains all.
            validation: this scenario with the validation parts as test sets, to write accuracies onto the cards.

        Raises:
            NonFiniteError: when a loss was NaN or infinite.
            CheckpointError: when an expert cannot be written.
        """
        parts = self.experiences if validation is None else validation.experiences
        tests = [None if validation is None else part.test for part in parts]
        jobs = [self._job(seed, *part) for part in zip(self.experiences, tests, strict=True)]
        epochs = self.training.epochs

        def report(job: _ExpertJob, epoch: int, _: int) -> None:
            if progress is not None:
                progress(jobs.index(job) * epochs + epoch, len(jobs) * epochs)

        if folder is None:
            experts = (job(seed, device, partial(report, job), None) for job in jobs)
            return ExpertStream.from_experts([expert.to("cpu") for expert in experts])
        paths = [Path(folder) / f"expert-{job.index}.json" for job in jobs]
        for job, path in [*zip(jobs, paths, strict=True)][ranks.rank :: ranks.size]:
            checkpoint = path.with_suffix(".training")
            if job.is_done(path):
                report(job, epochs, epochs)
            else:
                job.save(job(seed, device, partial(report, job), checkpoint), path)
            checkpoint.unlink(missing_ok=True)
        ranks.wait()
        if not ranks.alone:  # no rank reports the experts of the others
            report(jobs[-1], epochs, epochs)
        return ExpertStream(paths)

    def _job(self, seed: int, experience: Experience, held_out: Samples | None) -> _ExpertJob:
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for tensor in (experience.train.images, experience.train.labels):
            for part in tensor.split(_BATCH):  # the whole tensor may be many gigabytes
                digest.update(part.cpu().contiguous().numpy().tobytes())
        record = {
            "scenario": self.name,
            "experience": experience.index,
            "seed": seed,
            "data": digest.hexdigest(),
            "architecture": dict(self.architecture),
            "settings": to_plain(self.training),
            **({"pretrained": "imagenet"} if self.pretrained else {}),
        }
        make = partial(self._untrained, partial(self.make_module, seed, "experts"), experience)
        return _ExpertJob(experience.index, make, experience.train, held_out, self.training, record)

    def _untrained(self, make: Callable[[], nn.Module], experience: Experience) -> Expert:
        metadata: Any = {"task": experience.task, "name": f"{self.name}-{experience.index}"}
        return untrained_expert(make(), experience.train, mean=self.mean, std=self.std, **metadata)

    def _blank_module(self, seed: int, *path: int | str) -> nn.Module:
        with global_seed(seed, "initialisation", *path):
            return build(self.architecture["name"], **self.architecture["settings"])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        length = len(self.experiences)
        return f"Scenario({self.name!r}, {length} experiences, {self.classes} classes, images {shape})"


@attrs.frozen(eq=False)
class _ExpertJob:
    """One expert to train. The record is everything that its weights depend on, as JSON."""

    index: int
    make: Callable[[], Expert]
    train: Samples
    held_out: Samples | None
    training: ExpertTraining
    record: dict[str, Any]

    def __call__(self, seed: int, device: torch.device | str, progress: _Progress, checkpoint: Path | None) -> Expert:
        expert = self.make().to(device)
        self.training(expert, self.train, seed, progress, checkpoint)
        return expert

    def save(self, expert: Expert, path: Path) -> None:
        record, accuracy = self.record, None
        if self.held_out is not None:
            accuracy = _accuracy(expert, self.held_out)
            record = record | {"accuracy": {"split": "validation", "images": len(self.held_out)}}
        about: dict[str, Any] = {"order": self.index, "accuracy": accuracy}
        card = ExpertCard(**metadata(expert), **about, architecture=describe(expert.module), training=record)
        record = record | {"checksum": card_checksum(card)}
        save_expert(expert.to("cpu"), path.parent, path.stem, **about, training=record, overwrite=True)

    def is_done(self, path: Path) -> bool:
        """Whether the files of the expert with this record are complete and unchanged."""
        try:
            card = read_card(path)
            training = dict(card.training)
            checksum = training.pop("checksum", None)  # None on cards of earlier versions
            if card.sha256 is None or checksum not in (None, card_checksum(card)):
                raise ExpertError(expected="the card as it was written", got="a changed one", remedy="delete it")
            # A card from before a setting was added has the same settings.
            training["settings"] = to_plain(from_plain(training.get("settings"), ExpertTraining))
            training.pop("accuracy", None)
            if training != self.record:
                return False
            load_expert(path)
        except (ExpertError, ConfigError) as error:
            if path.exists():
                warnings.warn(f"the expert in {path} is trained again: {error}", ExmlWarning, stacklevel=2)
            return False
        return True


@torch.no_grad()
def _accuracy(expert: Expert, samples: Samples) -> float:
    samples = samples.to(expert.device)
    right = torch.zeros((), dtype=torch.int64, device=expert.device)
    for index in torch.arange(len(samples), device=expert.device).split(_BATCH):
        right += (expert.predicted_ids(samples.pixels(index)) == samples.labels[index]).sum()
    return right.item() / len(samples)
