"""Priors made of priors; each is itself a prior."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from exml.core.activation import Activation
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.core.validators import in_range
from exml.protocols import Prior


@component(kind="sum-of-priors")
@attrs.frozen
class Sum:
    """The sum of priors; an empty sum is 0.

    >>> from exml.priors import Sum
    >>> import torch
    >>> from exml.priors import L2Norm, TotalVariation
    >>> Sum((L2Norm(1.0), TotalVariation(0.1)))(torch.ones(2, 1, 4, 4), ())
    tensor(16.)
    """

    priors: tuple[Prior, ...] = attrs.field(converter=tuple)

    @property
    def reads_activations(self) -> bool:
        """Whether one of the priors does."""
        return any(prior.reads_activations for prior in self.priors)

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The sum of their penalties."""
        return sum((prior(images, activations) for prior in self.priors), start=images.new_zeros(()))


@component(kind="weighted-prior")
@attrs.frozen
class Weighted:
    """A prior times a weight >= 0, in addition to its own.

    >>> from exml.priors import Weighted
    >>> import torch
    >>> from exml.priors import L2Norm
    >>> Weighted(L2Norm(1.0), 0.25)(torch.ones(2, 1, 4, 4), ())
    tensor(4.)
    """

    prior: Prior
    weight: float = attrs.field(validator=in_range(0))

    @property
    def reads_activations(self) -> bool:
        """Whether the prior does."""
        return self.prior.reads_activations

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The weighted penalty."""
        return self.weight * self.prior(images, activations)
