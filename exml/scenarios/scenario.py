"""A scenario (Sec. 5, Table 1): the experiences that the experts are trained on, and their test sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.expert import Expert
from exml.core.ranks import ALONE, Ranks
from exml.core.rng import global_seed
from exml.core.samples import Samples
from exml.datasets import imagenet_weights
from exml.experts import ExpertProfile, ExpertStream, ExpertTraining
from exml.models import Normalized, build
from exml.scenarios._training import train_experts


@attrs.frozen(eq=False)
class Experience:
    """One learning experience e_i (Sec. 2).

    Args:
        index: i, from 1.
        classes: global ids of its classes, in ascending order.
        task: the task label t_i, from 0; None where the scenario has none.
        train: what its expert is trained on.
        test: what is asked about it afterwards.
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
        name: for reports.
        experiences: in their order.
        classes: how many there are in all; the global ids are below.
        image_shape: ``(channels, height, width)``.
        mean: of each channel over all training images, in pixel units.
        std: of each channel over all training images, in pixel units.
        architecture: name and settings in :mod:`exml.models`, of experts and student alike; ``classes`` output units.
        training: of the experts.
        pretrained: modules begin with weights for ImageNet, :func:`exml.datasets.imagenet_weights`, but for their head.

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
        """The class ids of each task label; None where the scenario has no tasks."""
        classes = {experience.task: experience.classes for experience in self.experiences}
        return None if None in classes else tuple(classes[task] for task in range(len(classes)))

    @property
    def has_tasks(self) -> bool:
        """Whether images come with a task label, also in the test."""
        return self.tasks is not None

    @property
    def shared_test(self) -> bool:
        """Whether several experiences have one test set, so that no image says which expert is responsible for it."""
        tests = {id(experience.test) for experience in self.experiences}
        return len(tests) < len(self.experiences)

    def make_module(self, seed: int, *path: int | str) -> nn.Module:
        """A module of the scenario's architecture, the same initial weights for the same seed and path.

        Raises:
            DataError: when it begins with weights that are not there and cannot be downloaded.
            SettingError: when there are none for its architecture.
        """
        module = self._module(seed, "initialisation", *path)
        if self.pretrained:
            module.load_state_dict({**module.state_dict(), **imagenet_weights(self.architecture["name"])})
        return module

    def profile(self) -> ExpertProfile:
        """What its experts are like; none is trained, and no pretrained weights are needed.

        >>> from exml import scenarios
        >>> scenarios.load("digits-mt").profile().tasks
        ((0, 5), (2, 3), (1, 7), (4, 6), (8, 9))
        """
        module = self._module(0, "profile")
        return ExpertProfile.from_experts(
            Expert(
                module,
                experience.classes,
                self.image_shape,
                outputs=range(self.classes),
                mean=self.mean,
                std=self.std,
                task=experience.task,
                name=f"{self.name}-{experience.index}",
            )
            for experience in self.experiences
        )

    def make_student(self, seed: int) -> Normalized:
        """A student of the experts' architecture with initial weights of its own, for images in pixel units."""
        return Normalized(self.make_module(seed, "student"), self.mean, self.std)

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
        """Train one expert on each experience, all from the same initial weights, on which Param. Avg. lives.

        Args:
            seed: for the initial weights and the training.
            folder: where each expert is saved when it is ready, and loaded from when its turn comes. An expert that is
                there already, trained on the same data with the same settings and seed, is not trained again, and one
                that was killed half-way goes on. Without a folder they all stay in memory.
            device: where to train.
            progress: called with the number of epochs done and of all, over the whole stream.
            ranks: each trains some of the experts, into a folder that all can read; without a folder each trains all.
            validation: this scenario with the validation part as its test sets; each card then has the accuracy of its
                expert on the images of its own experience.

        Raises:
            NonFiniteError: when a loss was NaN or infinite.
            CheckpointError: when an expert cannot be written.
        """
        folder = None if folder is None else Path(folder)
        return train_experts(self, seed, folder, device, progress, ranks, validation)

    def _module(self, seed: int, *path: int | str) -> nn.Module:
        with global_seed(seed, *path):
            return build(self.architecture["name"], **self.architecture["settings"])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        length = len(self.experiences)
        return f"Scenario({self.name!r}, {length} experiences, {self.classes} classes, images {shape})"
