"""The student of a stream of other people's experts: what it must be like is read off their cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from exml import models
from exml.core.errors import CheckpointError, ExpertError, SettingError, ShapeError
from exml.core.rng import global_seed
from exml.experts import ExpertCard
from exml.models import Normalized


@attrs.frozen
class StudentPlan:
    """What makes a student, and what an expert must be like for it to learn from.

    Args:
        architecture: name and settings in :mod:`exml.models`.
        classes: output units; the global class ids are below.
        image_shape: ``(channels, height, width)``.
        mean: of each channel, in pixel units, or one for all.
        std: of each channel, in pixel units, or one for all.
    """

    architecture: Any
    classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def make(self, seed: int) -> Normalized:
        """The student with initial weights, the same ones for the same seed.

        Raises:
            UnknownNameError: nobody registered the architecture.
            SettingError: it refuses its settings.
            ShapeError: it does not take such images, or gives another number of outputs.
        """
        with global_seed(seed, "initialisation", "student"):
            module = models.build(self.architecture["name"], **self.architecture["settings"])
        student = Normalized(module, self.mean, self.std)
        _check_outputs(student, self)
        return student

    def check(self, file: str, card: ExpertCard) -> None:
        """Refuse an expert that the student cannot learn from.

        Raises:
            ExpertError: unknown architecture, or a class id that the student does not have.
            ShapeError: other images.
        """
        ids = _ids(card)
        if card.image_shape != self.image_shape:
            raise ShapeError(
                expected=f"images {self.image_shape} of every expert ({file}.json)",
                got=str(card.image_shape),
                remedy="put experts with images of another shape into a folder of their own",
            )
        if max(ids) >= self.classes:
            raise ExpertError(
                expected=f"class ids below {self.classes}, the student's outputs ({file}.json)",
                got=str(max(ids)),
                remedy=f"begin a run with --classes {max(ids) + 1} or more, or correct the card",
            )
        if card.architecture is None or card.architecture["name"] not in models.names():
            raise ExpertError(
                expected=f"one of the architectures {', '.join(models.names())} ({file}.json)",
                got="null" if card.architecture is None else repr(card.architecture["name"]),
                remedy="register it with exml.models.register, and learn by exml.Learner from Python",
            )

    def require_same(self, path: Path, architecture: Mapping[str, Any] | None, classes: int | None) -> None:
        """Refuse to go on with another student than that of a run.

        Raises:
            CheckpointError: what was asked for is not what was begun with.
        """
        other = architecture is not None and _filled(architecture, self.classes, self.image_shape) != self.architecture
        if other or classes not in (None, self.classes):
            raise CheckpointError(
                expected=f"the student that the run in {path} was begun with: {self.architecture}",
                got="another one" if other else f"{classes} classes",
                remedy="resume it with the same arguments, or begin another run in another folder",
            )


def plan_student(
    cards: Mapping[str, ExpertCard], architecture: Mapping[str, Any] | None, classes: int | None
) -> StudentPlan:
    """The plan of a student for some experts.

    Args:
        cards: by name; the first says the shape of the images, their normalisation, and the architecture.
        architecture: another one; what it does not say of ``channels``, ``classes`` and ``image_size`` is filled in.
        classes: output units; by default as many as the cards have classes.
    """
    file, card = next(iter(cards.items()))
    outputs = classes_of(cards) if classes is None else classes
    if outputs < 1:
        raise SettingError(expected="at least one class", got=str(outputs), remedy="leave --classes out, or raise it")
    if architecture is None:
        if card.architecture is None:
            raise ExpertError(
                expected=f"an architecture ({file}.json)", got="null", remedy="say which the student shall have"
            )
        chosen = _widened(card.architecture, outputs)
    else:
        chosen = _filled(architecture, outputs, card.image_shape)
    return StudentPlan(chosen, outputs, card.image_shape, card.mean, card.std)


def classes_of(cards: Mapping[str, ExpertCard]) -> int:
    """How many outputs a student of these experts needs at least."""
    return 1 + max(unit for card in cards.values() for unit in _ids(card))


def _ids(card: ExpertCard) -> list[int]:
    return [unit for unit in (*card.classes, *(card.outputs or ())) if unit is not None]


def _widened(architecture: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The same architecture with another number of outputs; it may be wrapped in others."""
    settings = dict(architecture["settings"])
    for name, value in settings.items():
        if isinstance(value, Mapping) and set(value) == {"name", "settings"}:
            settings[name] = _widened(value, classes)
    if "classes" in settings:
        settings["classes"] = classes
    return {"name": architecture["name"], "settings": settings}


def _filled(architecture: Mapping[str, Any], classes: int, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    channels, height, width = image_shape
    known = {"channels": channels, "classes": classes}
    if height == width:
        known["image_size"] = height
    takes = models.settings(architecture["name"])
    filled = {name: value for name, value in known.items() if name in takes}
    settings = {**filled, **architecture["settings"]}
    with global_seed(0, "describe"):  # for the sake of its other settings; nobody's random numbers are used up
        return models.describe(models.build(architecture["name"], **settings))


def _check_outputs(student: nn.Module, plan: StudentPlan) -> None:
    remedy = "name another architecture or other settings for the student"
    student.eval()
    try:
        with torch.no_grad():
            logits = student(torch.zeros(2, *plan.image_shape))
    except (RuntimeError, ValueError) as error:
        raise ShapeError(
            expected=f"a student that takes images {plan.image_shape}, as the experts do",
            got=str(error).splitlines()[0],
            remedy=remedy,
        ) from error
    student.train()
    if logits.shape != (2, plan.classes):
        raise ShapeError(
            expected=f"a student with {plan.classes} outputs", got=str(tuple(logits.shape)[1:]), remedy=remedy
        )
