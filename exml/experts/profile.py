"""The metadata of a stream of experts, from which recipes choose a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
from torch import nn

from exml.core.errors import ShapeError, StreamError
from exml.core.expert import Expert
from exml.experts.card import ExpertCard, metadata
from exml.experts.entries import entries
from exml.experts.loading import read_cards, read_header


@attrs.frozen
class ExpertTraits:
    """One expert of a profile: the metadata of :class:`Expert`, and the layout of its weights.

    Args:
        shapes: the shape of each tensor of the module's state dict, by name; none for a format that does not list them
            without loading, such as ONNX.
        differentiable: whether its logits have a gradient with respect to the pixels; assumed of files.
    """

    name: str
    classes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    outputs: tuple[int | None, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: int | None
    labels: tuple[str, ...] | None
    shapes: Mapping[str, tuple[int, ...]] = attrs.field(repr=False, hash=False)
    differentiable: bool = True

    @property
    def running_statistics(self) -> tuple[str, ...]:
        """The layers with :func:`exml.core.activation.running_statistics`, such as batch norm, by qualified name."""
        found: list[str] = []
        for name, shape in self.shapes.items():
            layer, dot, held = name.rpartition(".")
            if held == "running_mean" and len(shape) == 1 and self.shapes.get(f"{layer}{dot}running_var") == shape:
                found.append(layer)
        return tuple(found)


@attrs.frozen(repr=False)
class ExpertProfile:
    """The metadata of a stream of experts. No module is built: cards and the headers of the weights are enough.

    Args:
        experts: in the order of the stream; none raise StreamError.
        open_ended: whether more experts may follow.

    >>> from exml import scenarios
    >>> profile = scenarios.load("digits-nc").profile()
    >>> profile
    ExpertProfile(5 experts, 10 classes, images 1x8x8, 5 with running statistics)
    >>> profile.experts[0].classes, profile.experts[0].running_statistics
    ((0, 5), ('features.1', 'features.5'))
    """

    experts: tuple[ExpertTraits, ...] = attrs.field(converter=tuple)
    open_ended: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.experts:
            raise StreamError(expected="at least one expert", got="none", remedy="give the experts of a stream")

    @classmethod
    def from_experts(cls, experts: Iterable[Expert], /) -> ExpertProfile:
        """The profile of live experts; runs a forward and a backward pass of each."""
        return cls([_traits_of(expert) for expert in experts])

    @classmethod
    def from_cards(
        cls, cards: Mapping[str, ExpertCard], folder: Path | str, /, *, open_ended: bool = False
    ) -> ExpertProfile:
        """The profile of some experts of a folder, by file name; raises ExpertError for unreadable weights."""
        traits, found = list[ExpertTraits](), entries(folder)
        for name, card in cards.items():
            shapes = {part: tuple(tensor.shape) for part, tensor in read_header(found[name], card).items()}
            traits.append(ExpertTraits(**metadata(card.expert(nn.Identity())), shapes=shapes))
        return cls(traits, open_ended)

    @classmethod
    def from_folder(cls, folder: Path | str, /, *, open_ended: bool = False) -> ExpertProfile:
        """The profile of all experts of a folder; errors are those of :func:`read_cards` and :meth:`from_cards`."""
        return cls.from_cards(read_cards(folder), folder, open_ended=open_ended)

    @property
    def count(self) -> int | None:
        """The number of experts; None where more may follow."""
        return None if self.open_ended else len(self.experts)

    @property
    def classes(self) -> int:
        """One more than the highest class id, which is the number of outputs that a student needs."""
        return 1 + max(unit for expert in self.experts for unit in expert.outputs if unit is not None)

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The different image shapes ``(channels, height, width)``, ascending."""
        return tuple(sorted({expert.image_shape for expert in self.experts}))

    @property
    def normalizations(self) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
        """The different pairs of mean and std, ascending."""
        return tuple(sorted({(expert.mean, expert.std) for expert in self.experts}))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The image shape of all experts; raises ShapeError when they differ."""
        if len(self.image_shapes) != 1:
            got = ", ".join(map(str, self.image_shapes))
            remedy = "give all experts one shape with exml.experts.adapted, as exml learn does"
            raise ShapeError(expected="experts with images of one shape", got=got, remedy=remedy)
        return self.image_shapes[0]

    @property
    def tasks(self) -> tuple[tuple[int, ...], ...] | None:
        """The class ids of each task label, ascending; None unless the experts have labels, from 0 without gaps."""
        classes: dict[int | None, set[int]] = {}
        for expert in self.experts:
            classes.setdefault(expert.task, set()).update(expert.classes)
        labels = range(len(classes))
        return tuple(tuple(sorted(classes[task])) for task in labels) if set(classes) == set(labels) else None

    def __repr__(self) -> str:
        shapes = " and ".join("x".join(map(str, shape)) for shape in self.image_shapes)
        counted = f"{len(self.experts)} expert{'s' if len(self.experts) > 1 else ''}{' or more' * self.open_ended}"
        tasks = "" if self.tasks is None else f" in {len(self.tasks)} tasks"
        normalized = sum(bool(expert.running_statistics) for expert in self.experts)
        described = f"{counted}, {self.classes} classes{tasks}, images {shapes}"
        return f"ExpertProfile({described}, {normalized} with running statistics)"


def _traits_of(expert: Expert) -> ExpertTraits:
    shapes = {name: tuple(tensor.shape) for name, tensor in expert.module.state_dict().items()}
    return ExpertTraits(**metadata(expert), shapes=shapes, differentiable=expert.differentiable)
