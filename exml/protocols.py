"""The contract of every family of components: what a component must provide to be used in a strategy.

Protocols are structural: a component needs no base class, only the attributes and the call. The conformance suites of
:mod:`exml.testing` check what a type checker cannot.
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
from exml.core.roles import role
from exml.core.samples import Samples
from exml.core.shapes import ClassMask, Images, Labels, Logits, Scalar, State
from exml.core.targets import Target, TeacherLogits


@runtime_checkable
class Journal(Protocol):
    """Where a long generation reports its progress and leaves what it needs to go on after a kill."""

    def restore(self) -> State | None:
        """What :meth:`record` stored before the run was killed, or None at a fresh start."""
        ...

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Say that ``done`` of ``total`` steps are over; ``state`` is called only when a checkpoint is due."""
        ...


@attrs.frozen
class NoJournal:
    """Keeps nothing and reports to nobody."""

    def restore(self) -> State | None:
        """Always a fresh start."""
        return None

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class GenerationContext:
    """The parts of a strategy that act inside a generator, and where it reports.

    Args:
        prior: added to the loss of generators that optimise pixels.
        augmentation: applied to the images before every forward pass of generators that optimise pixels.
        journal: told of the progress; hands back the state of a generation that was killed.
        experience: i, from 1, for generators that read the data of an experience.
        memory: M_{i-1}, for generators that begin with earlier images; None in the first experience.
        execution: of the steps of generators that optimise pixels.
        ranks: that make the images together. All of them call the generator with the same arguments, and each is given
            all samples; a generator that shares nothing out does the same on every rank.
    """

    prior: Prior | None = None
    augmentation: Augmentation | None = None
    journal: Journal = NoJournal()
    experience: int = 1
    memory: Samples | None = None
    execution: Execution = EAGER
    ranks: Ranks = attrs.field(factory=Alone)


STANDALONE = GenerationContext()
"""What a generator is given when it is called by itself: no prior, no augmentation, nobody listening."""


@role("generator")
@runtime_checkable
class Generator(Protocol):
    """The data generating procedure A^gen of Eq. 5: images and labels out of an expert, without its data."""

    @property
    def uses_priors(self) -> bool:
        """Whether pixels are optimised, so that priors and augmentation have an effect."""
        ...

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = ..., /) -> Samples:
        """Make ``size`` samples on the expert's device, the same ones for the same seed."""
        ...


@role("prior")
@runtime_checkable
class Prior(Protocol):
    """A natural image prior (Sec. 4.1): a penalty on images that look like nothing in nature."""

    @property
    def reads_activations(self) -> bool:
        """Whether the expert's batch-norm inputs are needed; if not, none are passed."""
        ...

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty, averaged over the batch; ``images`` are in the expert's normalised units.

        Ranks may share out a batch: what couples its images is to be made of :func:`exml.priors.statistics_of` the
        activations, which sees those of all ranks, and not of the activations themselves.
        """
        ...


@role("augmentation")
@runtime_checkable
class Augmentation(Protocol):
    """A random, differentiable change of images that keeps their class (Sec. 4.1)."""

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Change every image by parameters of its own, drawn from ``generator``."""
        ...


@role("normalizer")
@runtime_checkable
class Normalizer(Protocol):
    """Puts the logits of one teacher on a common scale (Eqs. 6 and 7)."""

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Normalise by statistics over the ``known`` classes of each row; every column is changed alike."""
        ...


@role("combiner")
@runtime_checkable
class Combiner(Protocol):
    """Makes one target of two teachers' normalised logits (Eq. 8)."""

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """``previous`` knows no class in the first experience; rows are aligned with ``samples``."""
        ...


@role("loss")
@runtime_checkable
class Loss(Protocol):
    """What the student minimises (Eqs. 9 and 10)."""

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss, averaged over the batch."""
        ...


@role("buffer")
@runtime_checkable
class BufferPolicy(Protocol):
    """What M_i keeps (Sec. 3, "Buffer Update"). Experiences count from 1."""

    def share(self, experience: int, /) -> int:
        """How many new samples to generate in this experience."""
        ...

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """The updated buffer M_i, from M_{i-1} (None at first) and D_i; reads i off ``new.experiences``."""
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
        """One expert, loaded now."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """A way to use the experts without learning (Sec. 5)."""

    @property
    def ex_model(self) -> bool:
        """Whether it keeps the ex-model rules: its predictor no longer needs the experts."""
        ...

    @property
    def needs_experience(self) -> bool:
        """Whether the predictor must be given the position of each image's expert in the stream."""
        ...

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor over ``classes`` global class ids."""
        ...
