"""What a stream of experts is like, before any of them is built. Recipes choose a strategy from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs
from safetensors import SafetensorError, safe_open
from torch import nn

from exml.core.errors import ShapeError, StreamError
from exml.core.expert import Expert
from exml.experts._fault import fault
from exml.experts.card import ExpertCard
from exml.experts.folder import read_cards


@attrs.frozen
class ExpertTraits:
    """One expert of a profile: the metadata of :class:`Expert`, and the layout of its weights.

    Args:
        name: see :class:`Expert`, like all fields but the last.
        classes: see there.
        image_shape: see there.
        outputs: see there.
        mean: see there.
        std: see there.
        task: see there.
        shapes: the shape of each tensor of the module's state dict, by name.
    """

    name: str
    classes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    outputs: tuple[int | None, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: int | None
    shapes: Mapping[str, tuple[int, ...]] = attrs.field(repr=False, hash=False)

    @property
    def running_statistics(self) -> tuple[str, ...]:
        """The layers with buffers ``running_mean`` and ``running_var``, such as batch norm, by qualified name."""
        layers = (name.removesuffix("running_mean") for name in self.shapes if name.endswith("running_mean"))
        return tuple(layer.removesuffix(".") for layer in layers if f"{layer}running_var" in self.shapes)


@attrs.frozen(repr=False)
class ExpertProfile:
    """What a stream of experts is like. No module is built: cards and the headers of the weights are enough.

    Args:
        experts: the traits of each, in the order of the stream; at least one.
        open_ended: whether more experts may follow.

    Raises:
        StreamError: without experts.

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
        """The profile of live experts."""
        return cls([_traits(expert, _shapes_of(expert)) for expert in experts])

    @classmethod
    def from_cards(
        cls, cards: Mapping[str, ExpertCard], folder: Path | str, /, *, open_ended: bool = False
    ) -> ExpertProfile:
        """The profile of some experts of a folder, by the name of their file. Of the weights, only headers are read.

        Raises:
            StreamError: without cards.
            ExpertError: when the header of a file of weights cannot be read.
        """
        shapes = {name: _shapes_in(Path(folder) / f"{name}.safetensors") for name in cards}
        return cls([_traits(card.expert(nn.Identity()), shapes[name]) for name, card in cards.items()], open_ended)

    @classmethod
    def from_folder(cls, folder: Path | str, /, *, open_ended: bool = False) -> ExpertProfile:
        """The profile of all experts of a folder.

        Raises:
            StreamError: when the folder is missing or empty, or the order of the cards is contradictory.
            ExpertError: when a card is faulty, or the header of a file of weights cannot be read.
        """
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
    def shared_classes(self) -> tuple[int, ...]:
        """The class ids that more than one expert knows, ascending."""
        known = [label for expert in self.experts for label in expert.classes]
        return tuple(sorted({label for label in known if known.count(label) > 1}))

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The different image shapes ``(channels, height, width)``, ascending."""
        return tuple(sorted({expert.image_shape for expert in self.experts}))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The image shape of all experts.

        Raises:
            ShapeError: when they differ.
        """
        if len(self.image_shapes) != 1:
            raise ShapeError(
                expected="experts with images of one shape",
                got=", ".join(map(str, self.image_shapes)),
                remedy="put experts with images of another shape into a stream of their own",
            )
        return self.image_shapes[0]

    @property
    def normalizations(self) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
        """The different pairs of mean and std, ascending."""
        return tuple(sorted({(expert.mean, expert.std) for expert in self.experts}))

    @property
    def tasks(self) -> tuple[tuple[int, ...], ...] | None:
        """The class ids of each task label, ascending; None unless every expert has a label, from 0 without gaps."""
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
        return (
            f"ExpertProfile({counted}, {self.classes} classes{tasks}, images {shapes}, "
            f"{normalized} with running statistics)"
        )


def _traits(expert: Expert, shapes: Mapping[str, tuple[int, ...]]) -> ExpertTraits:
    return ExpertTraits(
        expert.name,
        expert.classes,
        expert.image_shape,
        expert.outputs,
        expert.mean,
        expert.std,
        expert.task,
        shapes,
    )


def _shapes_of(expert: Expert) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in expert.module.state_dict().items()}


def _shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(weights, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        fault(weights, error, "complete weights", "get both files again")
