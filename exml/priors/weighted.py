"""A prior by a factor."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from exml.core.activation import Activation
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.core.validators import in_range
from exml.protocols import Prior


@component(kind="weighted-prior")
@attrs.frozen
class Weighted:
    """A prior times a weight, itself a prior: one knob for a whole sum.

    Args:
        prior: multiplied, its own weight included.
        weight: >= 0.

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
