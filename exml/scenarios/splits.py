"""Scenarios from any labeled dataset (Sec. 5, "Continual learning scenarios")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from exml.core.errors import DataError, SettingError
from exml.core.rng import make_generator
from exml.core.samples import Samples, StoredImages, to_pixels
from exml.core.shapes import Labels
from exml.experts import ExpertTraining
from exml.scenarios.scenario import Experience, Scenario

_PART = 1024
"""Images per histogram of bytes."""


@attrs.frozen(eq=False)
class ExpertSetup:
    """How the experts of a scenario are made.

    Args:
        architecture: name and settings in :mod:`exml.models`, of experts and student; by default a
            :class:`~exml.models.ConvNet` for square images.
        training: of the experts; by default that of appendix A.
        statistics: mean and std of each channel, in pixel units; by default those of the training images.
        pretrained: see :class:`Scenario`.
    """

    architecture: Mapping[str, Any] | None = None
    training: ExpertTraining = attrs.field(factory=ExpertTraining)
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    pretrained: bool = False


_DEFAULT = ExpertSetup()


def joint(train: Samples, test: Samples, *, name: str = "joint", setup: ExpertSetup = _DEFAULT) -> Scenario:
    """One experience with all classes: distillation without continual learning.

    Raises:
        DataError: when a set is empty, or ``test`` has classes or an image shape that ``train`` does not have.
    """
    _check(train, test, 1)
    return _scenario(name, train, setup, [_experience(1, train, test)])


def new_classes(
    train: Samples,
    test: Samples,
    *,
    experiences: int | None = None,
    classes_each: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    seed: int = 0,
    name: str = "new-classes",
    setup: ExpertSetup = _DEFAULT,
) -> Scenario:
    """NC: each experience has classes of its own. If they do not divide evenly, the first experiences have one more.

    Args:
        experiences: the number of experiences; or give ``classes_each``.
        classes_each: the number of classes of each experience.
        order: the class ids in the order of the stream; by default a random one.
        seed: for the random order.

    Raises:
        DataError: as :func:`joint`, for fewer classes than experiences, or an experience without test images.
        SettingError: with neither or both of ``experiences`` and ``classes_each``, or when ``classes_each`` or
            ``order`` does not cover every class once.

    >>> import exml, torch
    >>> from exml.scenarios import new_classes
    >>> samples = exml.Samples.of(torch.rand(12, 1, 8, 8), torch.arange(12) % 5)
    >>> scenario = new_classes(samples, samples, classes_each=(1, 4), order=(2, 0, 1, 3, 4))
    >>> [experience.classes for experience in scenario.experiences]
    [(2,), (0, 1, 3, 4)]
    """
    if (experiences is None) == (classes_each is None):
        expected, got = "experiences or classes_each, and not both", f"{experiences} and {classes_each}"
        raise SettingError(expected=expected, got=got, remedy="give one of them")
    count = len(classes_each or ()) if experiences is None else experiences
    classes = _class_order(train, test, count, seed)
    if order is not None:
        if sorted(order) != (ids := sorted(classes.tolist())):
            expected = f"each of the classes {ids} once"
            raise SettingError(expected=expected, got=str(tuple(order)), remedy="correct the order")
        classes = torch.tensor(order)
    if classes_each is None:
        shares = classes.tensor_split(count)
    elif min(classes_each) < 1 or sum(classes_each) != len(classes):
        expected = f"classes_each of at least 1, {len(classes)} in all"
        raise SettingError(expected=expected, got=str(tuple(classes_each)), remedy="share out all classes")
    else:
        shares = classes.split([*classes_each])
    return _scenario(name, train, setup, _by_classes(train, test, shares))


def multi_task(
    train: Samples,
    test: Samples,
    *,
    experiences: int,
    seed: int = 0,
    name: str = "multi-task",
    setup: ExpertSetup = _DEFAULT,
) -> Scenario:
    """MT: like :func:`new_classes`, but each image of experience i has the task label i - 1, also in the test set."""
    shares = _class_order(train, test, experiences, seed).tensor_split(experiences)
    return _scenario(name, train, setup, _by_classes(train, test, shares, tasks=True))


def new_instances(
    train: Samples,
    test: Samples,
    *,
    experiences: int | None = None,
    groups: Labels | None = None,
    seed: int = 0,
    name: str = "new-instances",
    setup: ExpertSetup = _DEFAULT,
) -> Scenario:
    """NI: each experience has images of its own, of all classes; all have the same test set.

    Args:
        experiences: the number of experiences; or give ``groups``. The images of each class are dealt out in a random
            order, and the sizes of the shares differ by at most one.
        groups: an integer for each training image, such as its recording session; the lowest comes first.
        seed: for the deal.

    Raises:
        DataError: as :func:`joint`, or when a class has fewer images than there are experiences.
        SettingError: with neither or both of ``experiences`` and ``groups``, or not one group per image.

    >>> import exml, torch
    >>> from exml.scenarios import new_instances
    >>> samples = exml.Samples.of(torch.rand(6, 1, 8, 8), torch.arange(6) % 2)
    >>> scenario = new_instances(samples, samples, groups=torch.tensor([4, 4, 9, 9, 9, 9]))
    >>> [len(experience.train) for experience in scenario.experiences]
    [2, 4]
    """
    if groups is None and experiences is not None:
        shares = _dealt(train, test, experiences, seed)
    elif experiences is None and groups is not None and groups.shape == train.labels.shape:
        _check(train, test, 1)
        shares = [(groups == group).nonzero().flatten() for group in groups.unique()]
    else:
        expected = f"either a number of experiences, or groups ({len(train)},)"
        got = f"{experiences} and {None if groups is None else tuple(groups.shape)}"
        raise SettingError(expected=expected, got=got, remedy="give one of them")
    shared = Samples.of(test.images, test.labels)
    parts = [_experience(index, _rows(train, share), test) for index, share in enumerate(shares, 1)]
    return _scenario(name, train, setup, [attrs.evolve(part, test=shared) for part in parts])


def _dealt(train: Samples, test: Samples, experiences: int, seed: int) -> list[Tensor]:
    """The rows of each experience, in ascending order."""
    shares: list[list[Tensor]] = [[] for _ in range(experiences)]
    begin = 0
    for label in _check(train, test, experiences):
        index = (train.labels == label).nonzero().flatten()
        if len(index) < experiences:
            expected, remedy = f"at least {experiences} training images of class {label}", "take fewer experiences"
            raise DataError(expected=expected, got=str(len(index)), remedy=remedy)
        generator = make_generator("cpu", seed, "new-instances", label)
        dealt = index[torch.randperm(len(index), generator=generator).to(index.device)]
        for number in range(experiences):
            shares[(begin + number) % experiences].append(dealt[number::experiences])
        begin += len(index)  # each class starts where the last one ended, so that sizes differ by at most one
    return [torch.cat(share).sort().values for share in shares]


def _rows(samples: Samples, index: Tensor) -> Samples:
    """The samples at ascending indices; a view, not a copy, if the indices have no gap."""
    first, last = int(index[0]), int(index[-1])
    return samples[first : last + 1] if last - first + 1 == len(index) else samples[index]


def _class_order(train: Samples, test: Samples, experiences: int, seed: int) -> Tensor:
    classes = torch.tensor(_check(train, test, experiences))
    if len(classes) < experiences:
        expected = f"at least {experiences} classes, one per experience"
        raise DataError(expected=expected, got=str(len(classes)), remedy="take fewer experiences")
    return classes[torch.randperm(len(classes), generator=make_generator("cpu", seed, "class-order"))]


def _by_classes(train: Samples, test: Samples, shares: Sequence[Tensor], *, tasks: bool = False) -> list[Experience]:
    parts: list[Experience] = []
    for index, chosen in enumerate(shares, 1):
        own = [samples[torch.isin(samples.labels, chosen.to(samples.labels.device))] for samples in (train, test)]
        parts.append(_experience(index, *own, task=index - 1 if tasks else None))
        if not len(own[1]):
            expected = f"test images of the classes {parts[-1].classes}"
            raise DataError(expected=expected, got="none", remedy="add some, or leave out the classes")
    return parts


def _experience(index: int, train: Samples, test: Samples, task: int | None = None) -> Experience:
    classes: tuple[int, ...] = tuple(train.labels.unique().tolist())
    marked = (Samples.of(part.images, part.labels, task=task, experience=index) for part in (train, test))
    return Experience(index, classes, task, *marked)


def _check(train: Samples, test: Samples, experiences: int) -> tuple[int, ...]:
    """Returns the class ids of the training set, ascending."""
    classes, tested = (set(part.labels.tolist()) for part in (train, test))
    problem: tuple[str, str] | None = None
    if experiences < 1:
        problem = "at least 1 experience", str(experiences)
    elif not classes or not tested:
        problem = "training and test images", f"{len(train)} and {len(test)}"
    elif min(classes) < 0 or not tested <= classes:
        problem = f"test labels among those of the training set, {sorted(classes)}, from 0", str(sorted(tested))
    elif train.images.shape[1:] != test.images.shape[1:]:
        problem = f"test images {tuple(train.images.shape[1:])}", str(tuple(test.images.shape[1:]))
    if problem is not None:
        raise DataError(expected=problem[0], got=problem[1], remedy="correct the dataset")
    return tuple(sorted(classes))


def _scenario(name: str, train: Samples, setup: ExpertSetup, experiences: list[Experience]) -> Scenario:
    channels, height, width = train.images.shape[1:]
    classes = int(train.labels.max()) + 1
    mean, std = map(tuple, _moments(train.images) if setup.statistics is None else setup.statistics)
    settings = {"channels": channels, "classes": classes, "image_size": height}
    architecture = setup.architecture or {"name": "conv-net", "settings": settings}
    shape = (channels, height, width)
    return Scenario(name, experiences, classes, shape, mean, std, architecture, setup.training, setup.pretrained)


def _moments(images: StoredImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, in pixel units, in float64."""
    if images.dtype != torch.uint8:
        pixels = images.double()
        return tuple(pixels.mean((0, 2, 3)).tolist()), tuple(pixels.std((0, 2, 3), correction=0).tolist())
    # A histogram of the bytes is enough, so a large set of images is never converted to floating point.
    values = to_pixels(torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)).double().flatten()
    moments: list[tuple[float, float]] = []
    for channel in images.unbind(1):
        counts = torch.zeros(256, dtype=torch.int64, device=images.device)
        for part in channel.split(_PART):
            counts += part.flatten().bincount(minlength=256)
        weights = counts.double().cpu() / int(counts.sum())
        mean = (weights * values).sum()
        moments.append((float(mean), float((weights * (values - mean).square()).sum().sqrt())))
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)
