"""The plan of a student for a folder of experts, made from their cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from exml import models
from exml.core.errors import CheckpointError, ExpertError, ShapeError
from exml.core.memory import require_memory
from exml.core.rng import global_seed
from exml.core.validators import field_error, in_range
from exml.experts import ExpertCard
from exml.experts.card import CLASSES, is_image_shape
from exml.learning.preflight import check_student
from exml.models import Normalized


def _is_architecture(plan: StudentPlan, attribute: attrs.Attribute[Any], value: Any) -> None:
    match value:
        case {"name": str(), "settings": Mapping()} if len(value) == 2:
            return
        case _:
            raise field_error(plan, attribute, value, "a name and settings", "see exml.models.describe")


@attrs.frozen
class StudentPlan:
    """A student to be built, and the experts that it can learn from."""

    architecture: Mapping[str, Any] = attrs.field(validator=_is_architecture)
    classes: int = attrs.field(validator=in_range(1, CLASSES, integer=True))
    image_shape: tuple[int, int, int] = attrs.field(validator=is_image_shape)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def make(self, seed: int) -> Normalized:
        """The student with its initial weights, which depend on the seed; an ExmlError if it cannot be built."""
        sketched = models.sketch(self.architecture["name"], **self.architecture["settings"])
        if sketched is not None:
            needed = sum(tensor.nbytes for tensor in sketched.state_dict().values())
            require_memory(needed, "the student", "name a smaller architecture for the student")
        with global_seed(seed, "initialisation", "student"):
            module = models.build(self.architecture["name"], **self.architecture["settings"])
        student = Normalized(module, self.mean, self.std)
        outputs = check_student(student, self.image_shape)
        if outputs != self.classes:
            raise ShapeError(
                expected=f"a student with {self.classes} outputs",
                got=str(outputs),
                remedy="name another architecture or other settings for the student",
            )
        return student

    def check(self, file: str, card: ExpertCard) -> None:
        """Refuse an expert that the student cannot learn from, with an ExpertError or a ShapeError."""
        highest, known = max(_ids(card)), models.names()
        if card.image_shape != self.image_shape:
            raise ShapeError(
                expected=f"images {self.image_shape} of every expert ({file}.json)",
                got=str(card.image_shape),
                remedy="move experts with images of another shape to another folder",
            )
        if highest >= self.classes:
            raise ExpertError(
                expected=f"class ids below {self.classes}, the student's outputs ({file}.json)",
                got=str(highest),
                remedy=f"start a run with --classes {highest + 1} or more, or correct the card",
            )
        if card.architecture is None or card.architecture["name"] not in known:
            raise ExpertError(
                expected=f"one of the architectures {', '.join(known)} ({file}.json)",
                got="null" if card.architecture is None else repr(card.architecture["name"]),
                remedy="register it with exml.models.register, and use exml.Learner from Python",
            )

    def fits(self, file: str, card: ExpertCard) -> bool:
        """Whether the student can learn from an expert, as far as its card tells."""
        try:
            self.check(file, card)
        except (ExpertError, ShapeError):
            return False
        return True

    def require_same(self, path: Path, architecture: Mapping[str, Any] | None, classes: int | None) -> None:
        """Refuse to resume a run with another student."""
        other = architecture is not None and _filled(architecture, self.classes, self.image_shape) != self.architecture
        if other or classes not in (None, self.classes):
            raise CheckpointError(
                expected=f"the student that the run in {path} was started with: {self.architecture}",
                got="another one" if other else f"{classes} classes",
                remedy="resume it with the same arguments, or start another run in another folder",
            )


def plan_student(
    cards: Mapping[str, ExpertCard], architecture: Mapping[str, Any] | None, classes: int | None
) -> StudentPlan:
    """Plan a student from the first card; ``architecture`` and ``classes`` override the card."""
    file, card = next(iter(cards.items()))
    outputs = 1 + max(max(_ids(each)) for each in cards.values()) if classes is None else classes
    if architecture is None:
        if card.architecture is None:
            raise ExpertError(
                expected=f"an architecture ({file}.json)", got="null", remedy="name the architecture of the student"
            )
        chosen = _widened(card.architecture, outputs)
    else:
        chosen = _filled(architecture, outputs, card.image_shape)
    return StudentPlan(chosen, outputs, card.image_shape, card.mean, card.std)


def _ids(card: ExpertCard) -> list[int]:
    return [unit for unit in (*card.classes, *(card.outputs or ())) if unit is not None]


def _widened(architecture: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The same architecture, possibly nested in others, with another number of outputs."""
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
    sketched = models.sketch(architecture["name"], **settings)  # only to read its other settings
    if sketched is None:
        with global_seed(0, "describe"):
            sketched = models.build(architecture["name"], **settings)
    return models.describe(sketched)
