"""The contract of every family of components.

Protocols are structural: a component needs no base class, only the attributes and the call. Every component of a
strategy is also a frozen attrs class decorated with ``@exml.component``, so that it prints, compares, hashes and
serializes. The suites of :mod:`exml.testing` check what is written here and what a type checker cannot see.

This room imports only :mod:`exml.core`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import attrs
import torch

from exml.core.activation import Activation
from exml.core.execution import EAGER, Execution
from exml.core.expert import Expert
from exml.core.ranks import Alone, Ranks
from exml.core.registry import role
from exml.core.samples import Samples, StoredImages
from exml.core.shapes import ClassMask, Images, Labels, Logits, Scalar, State
from exml.core.targets import Target, TeacherLogits


@runtime_checkable
class Journal(Protocol):
    """Receives the progress of a long generation, and the state to resume it from."""

    def restore(self) -> State | None:
        """The last state given to :meth:`record` before the run was interrupted; None at a fresh start."""
        ...

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Report that ``done`` of ``total`` steps are over; calls ``state`` only when a checkpoint is due."""
        ...


@attrs.frozen
class NoJournal:
    """Discards all reports."""

    def restore(self) -> State | None:
        """Always a fresh start."""
        return None

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class GenerationContext:
    """The parts of a strategy and of a run that a generator works with.

    Args:
        prior: added to the loss of generators that optimize pixels.
        augmentation: applied to the images before every forward pass of generators that optimize pixels.
        journal: receives progress, and returns the state of an interrupted generation.
        experience: i, from 1, for generators that read the data of an experience.
        memory: M_{i-1}, for generators that start from earlier images; None in the first experience.
        execution: of the steps of generators that optimize pixels.
        ranks: that generate together. All of them call the generator with the same arguments, and each receives all
            samples; a generator that does not distribute its work repeats it on every rank.
    """

    prior: Prior | None = None
    augmentation: Augmentation | None = None
    journal: Journal = NoJournal()
    experience: int = 1
    memory: Samples | None = None
    execution: Execution = EAGER
    ranks: Ranks = attrs.field(factory=Alone)


STANDALONE = GenerationContext()
"""The context of a generator that is called by itself: no prior, no augmentation, no journal."""


@role("generator")
@runtime_checkable
class Generator(Protocol):
    """The data generating procedure A^gen of Eq. 5: images and labels from an expert, without its data."""

    @property
    def uses_priors(self) -> bool:
        """Whether it optimizes pixels, so that priors and augmentation have an effect."""
        ...

    @property
    def uses_real_data(self) -> bool:
        """Whether it reads the experts' own training data, which an ex-model learner does not have (Sec. 5, "Replay").

        A generator that holds others reads them if one of those does.
        """
        ...

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = ..., /) -> Samples:
        """Make ``size`` >= 1 samples on the expert's device.

        Images are float32 in pixel units, finite, of ``expert.image_shape`` and without a graph. Labels are among
        ``expert.classes``, and task labels are ``expert.task``. The same seed gives the same samples, another seed
        gives others. The expert keeps its weights, its mode, its gradient flags and its hooks.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """Images for generators that optimize nothing."""

    @property
    def uses_real_data(self) -> bool:
        """Whether these are the experts' own training data; False for auxiliary data."""
        ...

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """All images for experience i (from 1) on the CPU, with global class ids where the source has them.

        Images are floating in pixel units, or uint8; a generator converts only those that it draws.
        """
        ...


@role("prior")
@runtime_checkable
class Prior(Protocol):
    """A natural image prior (Sec. 4.1): a penalty on images that do not look natural."""

    @property
    def reads_activations(self) -> bool:
        """Whether it needs the inputs of the expert's batch-norm layers; if not, none are passed."""
        ...

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty, averaged over the batch; ``images`` are in the expert's normalized units.

        It is finite, at least 0, a function of its arguments alone, and has a finite gradient with respect to the
        images. Several ranks may share a batch: take statistics over images with
        :func:`exml.priors.statistics_of`, which includes those of all ranks, instead of from the activations.
        """
        ...


@role("augmentation")
@runtime_checkable
class Augmentation(Protocol):
    """A random, differentiable transformation of images that preserves their class (Sec. 4.1)."""

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Transform every image by its own parameters, drawn from ``generator`` alone.

        Shape and type stay, the images passed in are not modified, and the gradient with respect to them is finite.
        """
        ...


@role("normalizer")
@runtime_checkable
class Normalizer(Protocol):
    """Puts the logits of one teacher on a common scale (Eqs. 6 and 7)."""

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Normalize each row by statistics over its ``known`` classes; every column is transformed alike.

        The known classes keep their order, and finite logits stay finite, also where all known ones are equal.
        """
        ...


@role("combiner")
@runtime_checkable
class Combiner(Protocol):
    """Makes one target from the normalized logits of two teachers (Eq. 8)."""

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """``previous`` knows no class in the first experience; rows are aligned with ``samples``.

        If a teacher knows the label of an image, its target is defined for at least one class, and the label is among
        its candidates. Candidates are classes that a teacher knows. Target logits are finite, and 0 where undefined.
        """
        ...


@role("loss")
@runtime_checkable
class Loss(Protocol):
    """What the student minimizes (Eqs. 9 and 10)."""

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The finite loss, averaged over the batch; its gradient with respect to ``logits`` is finite."""
        ...


@role("buffer")
@runtime_checkable
class BufferPolicy(Protocol):
    """What M_i keeps (Sec. 3, "Buffer Update"). Experiences count from 1."""

    def share(self, experience: int, /) -> int:
        """How many new samples to generate in this experience, at least 1."""
        ...

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """The updated buffer M_i, from M_{i-1} (None at first) and D_i; reads i from ``new.experiences``.

        It holds samples of both, unchanged and each at most once, at least one in all, and is the same for the same
        generator state.
        """
        ...


Predictor: TypeAlias = Callable[[Images, Labels | None], Logits]
"""Scores over all classes for images and, where the scenario gives them, task labels."""


@runtime_checkable
class Experts(Protocol):
    """A stream of known length that can be iterated several times; loads one expert at a time."""

    def __len__(self) -> int:
        """The number of experts."""
        ...

    def __iter__(self) -> Iterator[Expert]:
        """Each expert in turn."""
        ...

    def __getitem__(self, index: int, /) -> Expert:
        """One expert, loaded on access."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """A way to use the experts without learning (Sec. 5)."""

    @property
    def ex_model(self) -> bool:
        """Whether it keeps the ex-model rules, that is, its predictor no longer needs the experts."""
        ...

    @property
    def needs_experience(self) -> bool:
        """Whether the predictor must be given the position of each image's expert in the stream."""
        ...

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor over ``classes`` global class ids."""
        ...
