"""Label plans: which output of the student stands for which label of which expert."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations
from types import MappingProxyType
from typing import Any

import attrs
import yaml

from exml.core.errors import ExpertError, PlanError, UnknownNameError, nearest, printable
from exml.core.expert import Expert
from exml.core.plain import parse_yaml
from exml.core.serialization import from_plain
from exml.core.validators import in_range
from exml.experts.adapting import adapted, convertible
from exml.experts.card import CLASSES, NAME, ExpertCard, is_image_shape

SIMILAR = 0.82
"""The smallest similarity of spelling, from 0 to 1, that a note points out: "aeroplane" and "airplane" have 0.824."""
PAIRS = 200_000
"""The most pairs of labels whose spelling is compared."""
VALUES = 4_000_000
"""The most values of a plan as YAML: an expert has two for each label."""
SIZE = 64
"""Height and width up to which the student sees images of the largest size among experts of different sizes."""
_BLANK = re.compile(r"(label|class)[\s_-]*\d+", re.IGNORECASE)  # the default of Hugging Face is LABEL_0, LABEL_1 ...
_MOST = 20  # labels or experts that a note lists
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the C emitter is optional, and seven times faster
_HEADER = """\
# Label plan of a student. Edit it before the student learns.
#   experts:      for each expert, "its own label: label of the student".
#                 Rename a label on the right-hand side. Experts with equal labels there teach the same class.
#                 To drop a label, write null or delete the line.
#   rename:       the same for experts that join later, "their label: label of the student".
#   image_shape:  channels, height and width of the student's images; mean and std are those of its normalization.
#   labels:       optional; a list of the student's labels, whose order numbers the outputs.
#                 Without it, labels are numbered in order of appearance.
"""


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in values.items()}


@attrs.frozen(slots=False)
class LabelPlan:
    """The labels and the image space of a student, and what each label of each expert becomes.

    Make one with :func:`plan_labels`. The plan of experts that have only numbers is numeric: ``labels`` is None, a
    class id is the expert's number, and labels in ``experts`` are these numbers as text.

    Args:
        image_shape: ``(channels, height, width)`` of the student's images.
        experts: for each expert, by name, its own labels and the student's label for each; None drops a label.
        labels: of the student, by class id.
        outputs: number of the student's outputs; by default one per label, or one more than the largest number.
        mean: of the student's normalization, in pixel units; one number, or one per channel.
        std: as long as ``mean``, > 0.
        rename: their label to the student's, for experts that are admitted later.

    >>> from exml.experts import ExpertCard, plan_labels
    >>> cards = {"pets": ExpertCard("pets", (0, 1), (3, 32, 32), labels=("cat", "dog"))}
    >>> plan = plan_labels(cards).admit("farm", ExpertCard("farm", (0, 1), (1, 28, 28), labels=("dog", "cow")))
    >>> plan.labels, plan.image_shape, plan.teachers["dog"]
    (('cat', 'dog', 'cow'), (3, 32, 32), ('pets', 'farm'))
    """

    image_shape: tuple[int, int, int] = attrs.field(validator=is_image_shape)
    experts: Mapping[str, Mapping[str, str | None]] = attrs.field(converter=_copied, hash=False)
    labels: tuple[str, ...] | None = None
    outputs: int = attrs.field(
        default=attrs.Factory(lambda self: _outputs(self.labels, self.experts.values()), takes_self=True),
        validator=in_range(0, integer=True),
    )
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    rename: Mapping[str, str] = attrs.field(default=_NOTHING, converter=_copied, hash=False)

    def id_of(self, label: str, /) -> int:
        """The class id of one of the student's labels; an UnknownNameError for another label."""
        if (found := self._id(label)) is None:
            got = f"{label!r}, similar to {nearest(label, self.teachers)[0]!r}"
            raise UnknownNameError(expected="a label of the plan", got=got, remedy="correct the label")
        return found

    @cached_property
    def teachers(self) -> Mapping[str, tuple[str, ...]]:
        """For each label that an expert knows, the names of those experts, ordered by class id."""
        found: dict[str, list[str]] = {}
        for name, mapping in self.experts.items():
            for label in mapping.values():
                if label is not None:
                    found.setdefault(label, []).append(name)
        return {label: tuple(found[label]) for label in sorted(found, key=lambda label: self._id(label) or 0)}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Near-duplicates, shared labels, labels without an expert, and numbers, which a user may want to change.

        Near-duplicates are never merged. They are spelled alike but for case, spaces, hyphens and a plural s, or have
        such synonyms ("airplane, plane"); no expert knows both.
        """
        notes = list(_near_duplicates(self.experts))
        shared: dict[tuple[str, ...], list[str]] = {}  # labels by the experts that know them
        for label, names in self.teachers.items():
            if len(names) > 1:
                shared.setdefault(names, []).append(repr(label))
        if shared:
            parts = [f"{_listed(labels)} ({_listed(names)})" for names, labels in shared.items()]
            count = sum(map(len, shared.values()))
            notes.append(f"{count} label(s) known to more than one expert: {'; '.join(parts)}")
        named = any(_number(label) is None for label in self.teachers)
        numbered = [
            name
            for name, mapping in self.experts.items()
            if any(own == target and _number(own) is not None for own, target in mapping.items())
        ]
        if named and numbered:
            remedy = "rename the numbers if other experts have names for the same classes"
            notes.append(f"labels that are only numbers, of {_listed(map(repr, numbered))}: {remedy}")
        blank = [label for label, names in self.teachers.items() if len(names) > 1 and _BLANK.fullmatch(label)]
        if blank:
            remedy = "rename them, unless the experts mean the same classes"
            notes.append(f"labels without a meaning, known to more than one expert, such as {blank[0]!r}: {remedy}")
        unknown = [label for label in self.labels or () if label not in self.teachers]
        if unknown:
            notes.append(f"labels that no expert of the plan knows: {_listed(map(repr, unknown))}")
        return tuple(notes)

    def admit(self, name: str, card: ExpertCard, /) -> LabelPlan:
        """The plan with one more expert. Class ids never change; new labels are appended.

        For an expert that the plan lists already, this checks its labels against the plan and returns the plan.

        Raises:
            PlanError: the expert contradicts the plan.
        """
        problems = _unfit_images(name, card, self.image_shape)
        if name in self.experts:
            own = dict.fromkeys(_own(card))
            problems += [_unknown(label, f"expert {name!r}", own) for label in self.experts[name] if label not in own]
            _require(problems)
            return self
        mapping = {label: self.rename.get(label, label) for label in _own(card)}
        problems += _faults(name, mapping)
        _require(problems)
        return _extended(self, {name: mapping}, {name: card})

    def apply(self, name: str, expert: Expert, /) -> Expert:
        """An expert of the plan with the student's class ids and labels, for images of the student's shape.

        Output units of dropped labels have no class.

        Raises:
            ExpertError: the plan does not list ``name``, or lists labels that the expert does not have.
        """
        own = tuple(map(str, expert.classes)) if expert.labels is None else expert.labels
        mapping = self.experts.get(name)
        if mapping is None or not mapping.keys() <= set(own):
            got = "none" if mapping is None else f"one with the labels {', '.join(map(repr, mapping))}"
            expected = f"a plan for expert {name!r}, whose labels are {', '.join(map(repr, own))}"
            raise ExpertError(expected=expected, got=got, remedy="admit the expert to the plan, or correct the plan")
        kept = {
            known: (self.id_of(target), target)
            for known, label in zip(expert.classes, own, strict=True)
            if (target := mapping.get(label)) is not None
        }
        ids = {known: new for known, (new, _) in kept.items()}
        if expert.labels is None:  # numbers of units that were not trained keep their meaning
            untrained = {unit for unit in expert.outputs if unit is not None} - set(expert.classes)
            found, taken = {unit: self._id(str(unit)) for unit in untrained}, set(ids.values())
            ids |= {unit: new for unit, new in found.items() if new is not None and new not in taken}
        changed = attrs.evolve(
            expert,
            classes=tuple(new for new, _ in kept.values()),
            labels=None if expert.labels is None else tuple(label for _, label in kept.values()),
            outputs=tuple(None if unit is None else ids.get(unit) for unit in expert.outputs),
        )
        return adapted(changed, self.image_shape)

    def to_yaml(self) -> str:
        """The plan as an editable file, which :meth:`from_yaml` reads; comments explain it and list the notes."""
        mappings = {name: dict(mapping) for name, mapping in self.experts.items()}
        space = {name: list(getattr(self, name)) for name in ("image_shape", "mean", "std")}
        plain: dict[str, Any] = {"rename": dict(self.rename), "experts": mappings}
        if self.labels is None:
            plain = {"outputs": self.outputs, **plain}
        elif self.labels != _appended((), mappings.values()) or all(
            _number(label) is not None for label in self.labels
        ):
            plain = {"labels": list(self.labels), **plain}
        notes = "".join(f"# Note: {printable(note)}\n" for note in self.notes)
        written = yaml.safe_dump(space, sort_keys=False, default_flow_style=None)
        return _HEADER + notes + written + yaml.dump(plain, None, _Dumper, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str | bytes, /, path: str = "") -> LabelPlan:
        """Read a plan; ``path``, such as the name of its file, begins the path in the message of an error.

        Raises:
            ConfigError: the text is not YAML, or a key or value is wrong.
            PlanError: the plan contradicts itself.
        """
        file = from_plain(parse_yaml(text, values=VALUES), cls, path)
        problems = [] if file.experts else ["no expert: give at least one"]
        problems += [fault for name, mapping in file.experts.items() for fault in _faults(name, mapping)]
        problems += _bad_names((*(file.labels or ()), *file.rename.values()))
        problems += [f"labels lists {label!r} twice: remove one" for label in _repeated(file.labels or ())]
        channels = file.image_shape[0]
        if not {len(file.mean), len(file.std)} <= {1, channels} or min(file.std, default=0) <= 0:
            problems.append(f"mean {file.mean} and std {file.std}: give 1 or {channels} numbers, every std > 0")
        _require(problems)
        mappings = file.experts.values()
        if file.labels is None and all(_number(label) is not None for label in _targets(mappings)):
            return attrs.evolve(file, outputs=max(file.outputs, _outputs(None, mappings)))
        labels = _appended(file.labels or (), mappings)
        return attrs.evolve(file, labels=labels, outputs=len(labels))

    def _id(self, label: str) -> int | None:
        if self.labels is not None:
            return self._ids.get(label)
        number = _number(label)
        return None if number is None or number >= self.outputs else number

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {label: number for number, label in enumerate(self.labels or ())}


class _Dumper(_SafeDumper):  # pyright: ignore[reportUntypedBaseClass]
    """Quotes text that is not printable; PyYAML would write some of it so that it reads back as other text."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def plan_labels(
    cards: Mapping[str, ExpertCard],
    /,
    *,
    rename: Mapping[str, str | Mapping[str, str]] = _NOTHING,
    keep: Mapping[str, Collection[str]] = _NOTHING,
    drop: Mapping[str, Collection[str]] = _NOTHING,
    image_shape: tuple[int, int, int] | None = None,
) -> LabelPlan:
    """Plan the student's labels: the union of those of all experts, numbered in order of appearance.

    Experts without labels keep their numbers. If other experts have labels, the numbers become the labels "0", "1" and
    so on. ``rename``, ``keep`` and ``drop`` refer to an expert's own labels, or to its numbers as text.

    The student sees color if an expert does. Where sizes differ, it gets the largest height and the largest width, so
    that no expert loses detail, but not more than the larger of 64 and the smallest: the time per image grows with the
    area, and enlarged images of small experts contain nothing new. The normalization is that of the first expert with
    as many channels; without one, mean and std are 0.5.

    Args:
        cards: of the experts, by name, in the order of the stream.
        rename: "label: label of the student" for all experts, now and later, or "expert: {label: label of the
            student}" for one, which precedes the former.
        keep: for an expert, its only labels to be learned.
        drop: for an expert, its labels not to be learned.
        image_shape: ``(channels, height, width)`` of the student's images.

    Raises:
        PlanError: names that no expert has, one label twice in an expert, an expert without labels, or channels that
            cannot be converted; it lists all of these.

    >>> from exml.experts import ExpertCard, plan_labels
    >>> pets = ExpertCard("pets", (0, 1, 2), (3, 32, 32), labels=("cat", "dog", "automobile"))
    >>> cars = ExpertCard("cars", (0, 1), (3, 32, 32), labels=("car", "truck"))
    >>> plan = plan_labels({"a": pets, "b": cars}, rename={"automobile": "car"}, drop={"b": ["truck"]})
    >>> plan.labels, dict(plan.experts["b"])
    (('cat', 'dog', 'car'), {'car': 'car', 'truck': None})
    >>> plan_labels({"a": pets, "b": cars}, keep={"b": ["bus", "truck"]}, rename={"dgo": "puppy"})
    Traceback (most recent call last):
    exml.core.errors.PlanError: expected a label plan that fits its experts, got 2 problem(s); remedy: fix each of them:
      - rename: no expert has the label 'dgo'; did you mean 'dog'?
      - keep: expert 'b' has no label 'bus'; did you mean 'truck'?
    """
    own = {name: dict.fromkeys(_own(card)) for name, card in cards.items()}
    every = dict.fromkeys(label for labels in own.values() for label in labels)
    everywhere = {label: target for label, target in rename.items() if isinstance(target, str)}
    single = {name: target for name, target in rename.items() if not isinstance(target, str)}
    problems = [] if cards else ["no expert: give at least one"]
    problems += [f"rename: {_unknown(label, 'no expert', every)}" for label in everywhere if label not in every]
    for setting, chosen in {"rename": single, "keep": keep, "drop": drop}.items():
        for name, labels in chosen.items():
            if name not in own:
                problems.append(f"{setting}: no expert {name!r}; did you mean {(*nearest(name, own), '')[0]!r}?")
                continue
            unknown = [label for label in labels if label not in own[name]]
            problems += [f"{setting}: {_unknown(label, f'expert {name!r}', own[name])}" for label in unknown]
    problems += _bad_names(everywhere.values())
    experts: dict[str, Mapping[str, str | None]] = {}
    for name, labels in own.items():
        names = {**everywhere, **single.get(name, {})}
        left = set(keep.get(name, labels)) - set(drop.get(name, ()))
        experts[name] = {label: names.get(label, label) if label in left else None for label in labels}
        problems += _faults(name, experts[name])
    shape, mean, std = _image_space(list(cards.values()), image_shape)
    for name, card in cards.items():
        problems += _unfit_images(name, card, shape)
    _require(problems)
    return _extended(LabelPlan(shape, {}, None, 0, mean, std, everywhere), experts, cards)


def _extended(
    plan: LabelPlan, mappings: Mapping[str, Mapping[str, str | None]], cards: Mapping[str, ExpertCard]
) -> LabelPlan:
    """The plan with more experts, whose labels are sound."""
    experts = {**plan.experts, **mappings}
    named = any(card.labels is not None for card in cards.values())
    named = named or any(_number(label) is None for label in _targets(mappings.values()))
    if plan.labels is None and not named:
        units = [1 + unit for card in cards.values() for unit in _untrained(card)]
        outputs = max(plan.outputs, _outputs(None, mappings.values()), *units)
        return attrs.evolve(plan, experts=experts, outputs=outputs)
    numbers = tuple(map(str, range(plan.outputs)))
    labels = _appended(numbers if plan.labels is None else plan.labels, mappings.values())
    return attrs.evolve(plan, experts=experts, labels=labels, outputs=len(labels))


def _own(card: ExpertCard) -> tuple[str, ...]:
    return tuple(map(str, card.classes)) if card.labels is None else card.labels


def _untrained(card: ExpertCard) -> list[int]:
    """The numbers of output units that stand for classes which the expert was not trained on."""
    return [unit for unit in {*(card.outputs or ())} - {*card.classes} if unit is not None]


def _number(label: str) -> int | None:
    """The class id that a label is, if it is one."""
    fits = label.isascii() and label.isdecimal() and len(label) < 10 and str(int(label)) == label
    return int(label) if fits and int(label) < CLASSES else None


def _targets(mappings: Iterable[Mapping[str, str | None]]) -> Iterable[str]:
    return (label for mapping in mappings for label in mapping.values() if label is not None)


def _outputs(labels: Sequence[str] | None, mappings: Iterable[Mapping[str, str | None]]) -> int:
    if labels is not None:
        return len(labels)
    return max((1 + (_number(label) or 0) for label in _targets(mappings)), default=0)


def _appended(labels: Sequence[str], mappings: Iterable[Mapping[str, str | None]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*labels, *_targets(mappings))))


def _repeated(labels: Iterable[str]) -> list[str]:
    return [label for label, times in Counter(labels).items() if times > 1]


def _listed(parts: Iterable[str]) -> str:
    listed = list(parts)
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return ", ".join(listed[:_MOST]) + more


def _unknown(label: str, owner: str, labels: Iterable[str]) -> str:
    has = f"{owner} has the label" if owner == "no expert" else f"{owner} has no label"
    return f"{has} {label!r}; did you mean {(*nearest(label, labels), '')[0]!r}?"


def _bad_names(labels: Iterable[str]) -> list[str]:
    return [
        f"the label {label[:40]!r}: give a name of 1 to {NAME} characters"
        for label in dict.fromkeys(labels)
        if not label.strip() or len(label) > NAME
    ]


def _faults(name: str, mapping: Mapping[str, str | None]) -> list[str]:
    """What is wrong with the labels of one expert."""
    targets = list(_targets([mapping]))
    problems = _bad_names(targets)
    for label in _repeated(targets):
        sources = " and ".join(repr(own) for own, target in mapping.items() if target == label)
        problems.append(f"expert {name!r} would have the label {label!r} twice, from {sources}: drop one of them")
    if not targets:
        problems.append(f"expert {name!r} has no label left: keep one, or remove the expert from the stream")
    return problems


def _unfit_images(name: str, card: ExpertCard, image_shape: tuple[int, int, int]) -> list[str]:
    if convertible(card.image_shape, image_shape):
        return []
    shapes = f"images {image_shape} cannot become images {card.image_shape} of expert {name!r}"
    return [f"{shapes}: only gray and color are converted; leave the expert out, or choose another image_shape"]


def _require(problems: list[str]) -> None:
    if problems:
        raise PlanError(problems)


def _image_space(
    cards: Sequence[ExpertCard], chosen: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]:
    shapes = [card.image_shape for card in cards] or [(1, 1, 1)]
    height, width = (min(max(sizes), max(SIZE, min(sizes))) for sizes in list(zip(*shapes, strict=True))[1:])
    shape = chosen or (max(channels for channels, _, _ in shapes), height, width)
    like = next((card for card in cards if card.image_shape[0] == shape[0]), None)
    return (shape, (0.5,), (0.5,)) if like is None else (shape, like.mean, like.std)


def _near_duplicates(experts: Mapping[str, Mapping[str, str | None]]) -> Iterable[str]:
    """A note for each pair of similar labels that no expert knows both of."""
    owners: dict[str, frozenset[str]] = {}
    for name, mapping in experts.items():
        owners |= {label: owners.get(label, frozenset()) | {name} for label in _targets([mapping])}
    groups: dict[frozenset[str], dict[str, str]] = {}  # labels by a form of them, by the experts that know them
    for label, names in owners.items():
        groups.setdefault(names, {}).update((form, label) for part in label.split(",") if (form := _form(part)))
    apart = [(groups[one], groups[other]) for one, other in combinations(groups, 2) if not one & other]
    few = sum(len(one) * len(other) for one, other in apart) <= PAIRS
    if not few:
        yield f"{len(owners)} labels are too many to compare their spelling"
    found: dict[tuple[str, str], None] = {}
    for one, other in apart:
        for form, label in one.items():
            similar = get_close_matches(form, other, len(other), SIMILAR) if few else {form} & other.keys()
            digits = re.findall(r"\d+", form)
            found |= {(label, other[near]): None for near in similar if re.findall(r"\d+", near) == digits}
    for one, other in found:
        yield f"labels {one!r} and {other!r} may be the same class; rename one to merge them: {{{other!r}: {one!r}}}"


def _form(label: str) -> str:
    """A label without what often differs between two names of one class."""
    plain = re.sub(r"[\s_\-./'’]+", "", label.casefold())
    return re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|(?<=[^s]{3})s$", "", plain)
