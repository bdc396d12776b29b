"""The contract of every family of components.

A component needs no base class, only the attributes and the call of its protocol. Every component of a strategy is also
a frozen attrs class decorated with ``@exml.component``. The suites of :mod:`exml.testing` check these contracts.
This module imports only :mod:`exml.core`.
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
from exml.core.targets import Reading, Target, TeacherLogits


@runtime_checkable
class Journal(Protocol):
    """Receives the progress of a long generation, and the state to resume it from."""

    def restore(self) -> State | None:
        """The last recorded state of an interrupted run; None at a fresh start."""
        ...

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Report ``done`` of ``total`` steps; calls ``state`` only when a checkpoint is due."""
        ...


@attrs.frozen
class NoJournal:
    """Records nothing."""

    def restore(self) -> State | None:
        """None: there is no earlier state."""

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class GenerationContext:
    """The parts of a strategy and of a run that a generator may use.

    Args:
        prior: added to the loss of generators that optimize pixels.
        augmentation: applied to the images before every forward pass of generators that optimize pixels.
        journal: receives progress, and restores the state of an interrupted generation.
        experience: i, from 1.
        memory: M_{i-1}; None in the first experience.
        execution: of the steps of generators that optimize pixels.
        ranks: that generate together. All call the generator with the same arguments and receive all samples.
        start: weights that the expert was trained from, or others of the same origin, by the names of its state dict.
    """

    prior: Prior | None = None
    augmentation: Augmentation | None = None
    journal: Journal = NoJournal()
    experience: int = 1
    memory: Samples | None = None
    execution: Execution = EAGER
    ranks: Ranks = attrs.field(factory=Alone)
    start: State | None = None


STANDALONE = GenerationContext()
"""The context of a generator outside a run: no prior, no augmentation, no journal."""


@role("generator")
@runtime_checkable
class Generator(Protocol):
    """The data generating procedure A^gen of Eq. 5: images and labels from an expert, without its data."""

    @property
    def uses_priors(self) -> bool:
        """Whether it optimizes pixels, so that priors matter and experts must be differentiable."""
        ...

    @property
    def uses_real_data(self) -> bool:
        """Whether it, or a generator inside it, reads the experts' own training data (Sec. 5, "Replay")."""
        ...

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = ..., /) -> Samples:
        """Make ``size`` >= 1 samples on the expert's device.

        Images are float32 in pixel units, finite, of ``expert.image_shape`` and without a graph. Labels are among
        ``expert.classes``, and task labels are ``expert.task``. The samples are a function of the seed; torch's global
        generator is left alone. The expert keeps its weights, its mode, its gradient flags and its hooks.
        """
        ...


@role("source")
@runtime_checkable
class Source(Protocol):
    """Images for generators that optimize nothing."""

    @property
    def uses_real_data(self) -> bool:
        """Whether these are the experts' own training data."""
        ...

    def __call__(self, experience: int, /) -> tuple[StoredImages, Labels | None]:
        """All images for experience i (from 1), on the CPU, with global class ids if the source has them."""
        ...


@role("prior")
@runtime_checkable
class Prior(Protocol):
    """A natural image prior (Sec. 4.1)."""

    @property
    def reads_activations(self) -> bool:
        """Whether it receives the inputs of the expert's batch-norm layers."""
        ...

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty, averaged over the batch; ``images`` are in the expert's normalized units.

        It is finite, at least 0, of the type of the images, and a function of its arguments alone. Its gradient with
        respect to the images is finite, even if all pixels are equal. Several ranks may share a batch;
        :func:`exml.priors.statistics_of` includes the images of all of them.
        """
        ...


@role("augmentation")
@runtime_checkable
class Augmentation(Protocol):
    """A random, differentiable transformation of images that preserves their class (Sec. 4.1)."""

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Transform every image by its own parameters, drawn from ``generator`` alone.

        The result has the same shape and type and a finite gradient; the argument is not modified.
        """
        ...


@role("normalizer")
@runtime_checkable
class Normalizer(Protocol):
    """Puts the logits of one teacher on a common scale (Eqs. 6 and 7)."""

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Transform all columns of a row alike, by statistics over its ``known`` classes.

        Known classes keep their order. Finite logits stay finite, even if all known ones are equal.
        """
        ...


@role("calibration")
@runtime_checkable
class Calibration(Protocol):
    """Puts the logits of experts that have nothing in common on one scale, before a student learns from them."""

    def __call__(self, expert: Expert, seed: int, start: State | None = None, /) -> Expert:
        """The expert with calibrated logits, a function of the arguments alone.

        All experts of a stream get the same ``seed``, so that their scales do not depend on their order.

        ``start`` has weights that the expert was trained from, or weights of another expert that was trained from the
        same, by the names of the expert's state dict; not all are there. None if unknown.

        It has the same classes, outputs and images. Calibrated logits are finite, depend on the image alone, and keep
        the order of those of the expert's own classes. The expert itself keeps its weights, its mode, its gradient
        flags and its hooks; the calibrated one may share its weights.
        """
        ...


@role("calibration step")
@runtime_checkable
class CalibrationStep(Protocol):
    """One step of a :class:`exml.calibrations.CommonScale`."""

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> Callable[[Reading], Logits]:
        """Fit the step to an expert, and return the function that gives its logits from a reading of any images.

        The logits of both arguments are those that the previous steps leave. The function treats each image by itself,
        and keeps the order of the expert's classes; it is differentiable.

        Args:
            drawings: a reading of random drawings.
            evolved: makes drawings that evolved towards the expert's classes, at the first call, and reads them.
        """
        ...


@role("combiner")
@runtime_checkable
class Combiner(Protocol):
    """Makes one target from the normalized logits of two teachers (Eq. 8)."""

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """The target of each sample; ``previous`` knows no class in the first experience.

        If a teacher knows the label of an image, its target is defined for at least one class, and the label is among
        its candidates. Candidates are classes that a teacher knows. Target logits are finite, and 0 where undefined.
        Row i is that of image i, a function of the arguments alone, which are not modified.
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
        """The updated buffer M_i, from M_{i-1} (None at first) and D_i, whose ``experiences`` are i.

        It holds at least one sample, and at most ``size`` if the policy has a field of that name. All are samples of
        both, unchanged, each at most once. The arguments are not modified.
        """
        ...


Predictor: TypeAlias = Callable[[Images, Labels | None], Logits]
"""Scores over all classes for images and, where the scenario gives them, task labels."""


@runtime_checkable
class Experts(Protocol):
    """A stream of known length that can be iterated several times; loads one expert at a time."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Expert]: ...
    def __getitem__(self, index: int, /) -> Expert: ...


@role("baseline")
@runtime_checkable
class Baseline(Protocol):
    """A way to use the experts without learning (Sec. 5)."""

    @property
    def ex_model(self) -> bool:
        """Whether its predictor no longer needs the experts."""
        ...

    @property
    def needs_experience(self) -> bool:
        """Whether the predictor needs the position of each image's expert in the stream, in place of its task label."""
        ...

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor over ``classes`` global class ids."""
        ...
