"""Shapes and protocols, each named once.

A dimension that bears the same name in two arguments of one call has the same size in both (jaxtyping's rule; the tests
check it at run time). Protocols are structural: a component needs no base class, only the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:  # the protocols speak of things that live on the floors above
    from exml.experts import Expert, ExpertStream
    from exml.generators import GenerationContext
    from exml.priors import Activation
    from exml.samples import Samples
    from exml.targets import Target, TeacherLogits

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Images; outside an expert always in pixel units, where [0, 1] is the range of a photograph."""
Logits: TypeAlias = Float[Tensor, "batch classes"]
"""One row an image, one column a global class id."""
Labels: TypeAlias = Int[Tensor, " batch"]
"""Global class ids (or task labels, or experiences), int64."""
ClassMask: TypeAlias = Bool[Tensor, " classes"]
"""Which classes: True where it holds."""
EntryMask: TypeAlias = Bool[Tensor, "batch classes"]
"""Which classes of which image."""
Scalar: TypeAlias = Float[Tensor, ""]
"""A 0-dimensional tensor on the device, so that reading it is the caller's choice."""
State: TypeAlias = Mapping[str, Tensor]
"""Tensors by name: what a checkpoint holds of work in flight."""


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


@runtime_checkable
class Augmentation(Protocol):
    """A random, differentiable change of images that keeps their class (Sec. 4.1)."""

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Change every image by parameters of its own, drawn from ``generator``."""
        ...


@runtime_checkable
class Normalizer(Protocol):
    """Puts the logits of one teacher on a common scale (Eqs. 6 and 7)."""

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Normalise by statistics over the ``known`` classes of each row; every column is changed alike."""
        ...


@runtime_checkable
class Combiner(Protocol):
    """Makes one target of two teachers' normalised logits (Eq. 8)."""

    def __call__(self, previous: TeacherLogits, expert: TeacherLogits, samples: Samples, /) -> Target:
        """``previous`` knows no class in the first experience; rows are aligned with ``samples``."""
        ...


@runtime_checkable
class Loss(Protocol):
    """What the student minimises (Eqs. 9 and 10)."""

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss, averaged over the batch."""
        ...


@runtime_checkable
class BufferPolicy(Protocol):
    """What M_i keeps (Sec. 3, "Buffer Update"). Experiences count from 1."""

    def share(self, experience: int, /) -> int:
        """How many new samples to generate in this experience."""
        ...

    def __call__(self, memory: Samples | None, new: Samples, generator: torch.Generator, /) -> Samples:
        """The updated buffer M_i, from M_{i-1} (None at first) and D_i; reads i off ``new.experiences``."""
        ...


Predictor: TypeAlias = Callable[["Images", "Labels | None"], "Logits"]
"""Scores over all classes for images and, where the scenario gives them, task labels."""


@runtime_checkable
class Baseline(Protocol):
    """A way to use the experts without learning (Sec. 5)."""

    def __call__(self, experts: ExpertStream, classes: int, /) -> Predictor:
        """A predictor over ``classes`` global class ids."""
        ...


@runtime_checkable
class Journal(Protocol):
    """Where a long generation reports its progress and leaves what it needs to go on after a kill."""

    def restore(self) -> State | None:
        """What :meth:`record` stored before the run was killed, or None at a fresh start."""
        ...

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Say that ``done`` of ``total`` steps are over; ``state`` is called only when a checkpoint is due."""
        ...
