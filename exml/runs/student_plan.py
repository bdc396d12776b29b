"""The plan of a student: its architecture, its first outputs, and the space of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from exml import models
from exml.core.errors import CheckpointError, ConfigError, ExmlError, SettingError, ShapeError
from exml.core.files import read_yaml
from exml.core.memory import require_memory
from exml.core.plain import parse_yaml
from exml.core.rng import global_seed
from exml.core.validators import field_error, in_range
from exml.experts import ExpertCard
from exml.experts.card import CLASSES, is_image_shape
from exml.experts.labels import LabelPlan
from exml.learning.preflight import check_student
from exml.models import Normalized

SMALL = 64
"""Height and width up to which a conv-net is the student if the first expert has no architecture that fits."""


def _is_architecture(plan: StudentPlan, attribute: attrs.Attribute[Any], value: Any) -> None:
    match value:
        case {"name": str(), "settings": Mapping()} if len(value) == 2:
            return
        case _:
            raise field_error(plan, attribute, value, "a name and settings", "see exml.models.describe")


@attrs.frozen
class StudentPlan:
    """A student to be built; its head grows later if an expert has new labels."""

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

    def require_same(self, architecture: Mapping[str, Any] | None) -> None:
        """Refuse to resume a run with another student."""
        if architecture is not None and _filled(architecture, self.classes, self.image_shape) != self.architecture:
            raise CheckpointError(
                expected=f"the student that the run was started with: {self.architecture}",
                got="another one",
                remedy="resume it with the same arguments, or start another run in another folder",
            )


def plan_student(
    labels: LabelPlan, architecture: Mapping[str, Any] | None, first: ExpertCard, seed: int
) -> StudentPlan:
    """Plan a student for a label plan, and build it once.

    Args:
        labels: gives the outputs and the image space.
        architecture: name and settings; None selects that of the first expert, or else a conv-net for small images.
        first: the card of the first expert.
        seed: of the initial weights.

    Raises:
        ExmlError: the student cannot be built, or does not take such images.
    """
    shape, outputs = labels.image_shape, labels.outputs
    mean, std = labels.mean, labels.std
    if architecture is not None:
        plan = StudentPlan(_filled(architecture, outputs, shape), outputs, shape, mean, std)
        plan.make(seed)
        return plan
    faults: list[str] = []
    choices = [] if first.architecture is None else [_widened(first.architecture, outputs, first.image_shape, shape)]
    choices += [{"name": "conv-net", "settings": {}}] if max(shape[1:]) <= SMALL else []
    for choice in choices:
        try:
            plan = StudentPlan(_filled(choice, outputs, shape), outputs, shape, mean, std)
            plan.make(seed)
            return plan
        except ExmlError as error:
            faults.append(f"{choice['name']}: {error}")
    raise SettingError(
        expected=f"an architecture of a student for images {shape}, since the first expert ({first.name!r}) gives none",
        got="; ".join(faults) or "none",
        remedy="name one, such as --student resnet18 or --student torchvision/resnet18",
    )


def _widened(
    architecture: Mapping[str, Any], classes: int, before: tuple[int, int, int], after: tuple[int, int, int]
) -> dict[str, Any]:
    """The same architecture, possibly nested in others, with another number of outputs, for another image shape."""
    settings = dict(architecture["settings"])
    for name, value in settings.items():
        if isinstance(value, Mapping) and set(value) == {"name", "settings"}:
            settings[name] = _widened(value, classes, before, after)
    known: dict[str, Any] = {"classes": classes}
    if before != after:
        known |= {"channels": after[0], "image_size": after[1]}
    settings |= {name: value for name, value in known.items() if name in settings}
    return {"name": architecture["name"], "settings": settings}


def _filled(architecture: Mapping[str, Any], classes: int, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    name = architecture["name"]
    settings = models.filled(name, architecture["settings"], classes, image_shape)
    sketched = models.sketch(name, **settings)  # only to read its other settings
    if sketched is None:
        with global_seed(0, "describe"):
            sketched = models.build(name, **settings)
    return models.describe(sketched)


def architecture_of(text: str, /) -> dict[str, Any]:
    """The architecture that a text names: NAME, NAME:setting=value,... or a YAML file with a name and settings.

    >>> from exml.runs.student_plan import architecture_of
    >>> architecture_of("conv-net:widths=[8,16],batch_norm=false")
    {'name': 'conv-net', 'settings': {'widths': [8, 16], 'batch_norm': False}}
    """
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json"):
        found = read_yaml(path, "a student")
    else:
        name, _, values = text.partition(":")
        try:
            found = parse_yaml(f"{{name: {name}, settings: {{{values.replace('=', ': ')}}}}}")
        except ConfigError:
            found = None
    found = found if isinstance(found, dict) else {}
    settings = found.get("settings") or {}
    fits = isinstance(found.get("name"), str) and set(found) <= {"name", "settings"} and isinstance(settings, dict)
    if not fits or not all(isinstance(key, str) and value is not None for key, value in settings.items()):
        examples = "conv-net or conv-net:widths=[8,16],batch_norm=false"
        expected = f"a student such as {examples}, or a YAML file with name and settings"
        raise SettingError(expected=expected, got=repr(text), remedy="correct it; exml.models.names() lists the names")
    return {"name": found["name"], "settings": settings}
