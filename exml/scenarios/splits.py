"""Scenarios out of any labelled dataset (Sec. 5, "Continual learning scenarios")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from exml._rng import make_generator
from exml.errors import DataError
from exml.experts import ExpertTraining
from exml.samples import Samples, StoredImages, to_pixels
from exml.scenarios.scenario import Experience, Scenario

_PART = 1024
"""Images whose bytes are counted at once."""


def joint(
    train: Samples,
    test: Samples,
    *,
    name: str = "joint",
    architecture: Mapping[str, Any] | None = None,
    training: ExpertTraining | None = None,
) -> Scenario:
    """One experience with all classes: distillation without continual learning.

    Args:
        train: labelled images in pixel units.
        test: images of the same classes.
        name: for reports.
        architecture: of experts and student; a :class:`~exml.models.ConvNet` for square images by default.
        training: of the experts; that of appendix A by default.

    Raises:
        DataError: when a set is empty, or the test has classes or image shapes that the training set has not.
    """
    classes = _check(train, test, 1)
    return _scenario(name, train, architecture, training, [_experience(1, classes, None, train, test)])


def new_classes(
    train: Samples,
    test: Samples,
    *,
    experiences: int,
    seed: int = 0,
    name: str = "new-classes",
    architecture: Mapping[str, Any] | None = None,
    training: ExpertTraining | None = None,
) -> Scenario:
    """NC: every experience has classes that no other one has; where they do not divide evenly the first have one more.

    Args:
        train: see :func:`joint`, like the others.
        test: see above.
        experiences: how many.
        seed: for the order of the classes.
        name: see above.
        architecture: see above.
        training: see above.

    Raises:
        DataError: as :func:`joint`, when there are fewer classes than experiences, or an experience has no test images.

    >>> samples = Samples.of(torch.rand(12, 1, 8, 8), torch.arange(12) % 5)
    >>> scenario = new_classes(samples, samples, experiences=2)
    >>> [len(experience.classes) for experience in scenario.experiences]
    [3, 2]
    """
    parts = _by_classes(train, test, experiences, seed, tasks=False)
    return _scenario(name, train, architecture, training, parts)


def multi_task(
    train: Samples,
    test: Samples,
    *,
    experiences: int,
    seed: int = 0,
    name: str = "multi-task",
    architecture: Mapping[str, Any] | None = None,
    training: ExpertTraining | None = None,
) -> Scenario:
    """MT: as :func:`new_classes`, and every image comes with the task label i - 1, also in the test."""
    parts = _by_classes(train, test, experiences, seed, tasks=True)
    return _scenario(name, train, architecture, training, parts)


def new_instances(
    train: Samples,
    test: Samples,
    *,
    experiences: int,
    seed: int = 0,
    name: str = "new-instances",
    architecture: Mapping[str, Any] | None = None,
    training: ExpertTraining | None = None,
) -> Scenario:
    """NI: every experience has all classes and images of its own; all have the same test set.

    The images of each class are dealt out in a random order, so that the shares differ by one image at most.

    Raises:
        DataError: as :func:`joint`, or when a class has fewer images than there are experiences.
    """
    classes = _check(train, test, experiences)
    shares: list[list[Tensor]] = [[] for _ in range(experiences)]
    begin = 0
    for label in classes:
        index = (train.labels == label).nonzero().flatten()
        if len(index) < experiences:
            raise DataError(
                expected=f"at least {experiences} training images of class {label}",
                got=str(len(index)),
                remedy="take fewer experiences, or leave out the class",
            )
        generator = make_generator("cpu", seed, "new-instances", label)
        dealt = index[torch.randperm(len(index), generator=generator).to(index.device)]
        for number in range(experiences):
            shares[(begin + number) % experiences].append(dealt[number::experiences])
        begin += len(index)  # a class goes on where the last one ended, so that sizes differ by one at most
    shared = attrs.evolve(test, experiences=torch.zeros_like(test.labels), tasks=torch.full_like(test.labels, -1))
    parts: list[Experience] = []
    for index, share in enumerate(shares, 1):
        own = train[torch.cat(share).sort().values]
        parts.append(attrs.evolve(_experience(index, classes, None, own, test), test=shared))
    return _scenario(name, train, architecture, training, parts)


def _by_classes(train: Samples, test: Samples, experiences: int, seed: int, *, tasks: bool) -> list[Experience]:
    classes = torch.tensor(_check(train, test, experiences))
    if len(classes) < experiences:
        raise DataError(
            expected=f"at least {experiences} classes, one an experience",
            got=str(len(classes)),
            remedy="take fewer experiences",
        )
    order = classes[torch.randperm(len(classes), generator=make_generator("cpu", seed, "class-order"))]
    parts: list[Experience] = []
    for index, chosen in enumerate(order.tensor_split(experiences), 1):
        own: tuple[int, ...] = tuple(sorted(chosen.tolist()))
        of_own = [samples[torch.isin(samples.labels, chosen.to(samples.labels.device))] for samples in (train, test)]
        if not len(of_own[1]):
            raise DataError(
                expected=f"test images of the classes {own}", got="none", remedy="add some, or leave out the classes"
            )
        parts.append(_experience(index, own, index - 1 if tasks else None, *of_own))
    return parts


def _experience(index: int, classes: tuple[int, ...], task: int | None, train: Samples, test: Samples) -> Experience:
    marked = (Samples.of(part.images, part.labels, task=task, experience=index) for part in (train, test))
    return Experience(index, classes, task, *marked)


def _check(train: Samples, test: Samples, experiences: int) -> tuple[int, ...]:
    """The class ids of the training set."""
    classes, tested = (set(part.labels.tolist()) for part in (train, test))
    problem: tuple[str, str] | None = None
    if experiences < 1:
        problem = "at least 1 experience", str(experiences)
    elif not classes or not tested:
        problem = "training and test images", f"{len(train)} and {len(test)}"
    elif min(classes) < 0 or not tested <= classes:
        problem = f"test labels among those of the training, {sorted(classes)}, from 0", str(sorted(tested))
    elif train.images.shape[1:] != test.images.shape[1:]:
        problem = f"test images {tuple(train.images.shape[1:])}", str(tuple(test.images.shape[1:]))
    if problem is not None:
        raise DataError(expected=problem[0], got=problem[1], remedy="correct the dataset")
    return tuple(sorted(classes))


def _scenario(
    name: str,
    train: Samples,
    architecture: Mapping[str, Any] | None,
    training: ExpertTraining | None,
    experiences: list[Experience],
) -> Scenario:
    channels, height, width = train.images.shape[1:]
    classes = int(train.labels.max()) + 1
    mean, std = _moments(train.images)
    if architecture is None:
        settings = {"channels": channels, "classes": classes, "image_size": height}
        architecture = {"name": "conv-net", "settings": settings}
    return Scenario(
        name,
        tuple(experiences),
        classes,
        (channels, height, width),
        mean,
        std,
        architecture,
        training or ExpertTraining(),
    )


def _moments(images: StoredImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, in pixel units, in float64."""
    if images.dtype != torch.uint8:
        pixels = images.double()
        return tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist())
    # Of bytes it is enough to know how many there are of each: no large set of images is ever floating.
    means: list[float] = []
    stds: list[float] = []
    values = to_pixels(torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)).double().flatten()
    for channel in images.unbind(1):
        counts = torch.zeros(256, dtype=torch.int64, device=images.device)
        for part in channel.split(_PART):
            counts += part.flatten().bincount(minlength=256)
        weights = counts.double().cpu() / int(counts.sum())
        mean = (weights * values).sum()
        means.append(float(mean))
        stds.append(float((weights * (values - mean).square()).sum().sqrt()))
    return tuple(means), tuple(stds)
