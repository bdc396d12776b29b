"""Several priors are one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from exml.core.activation import Activation
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.protocols import Prior


def _tuple(priors: Iterable[Prior]) -> tuple[Prior, ...]:
    return tuple(priors)


@component(kind="sum-of-priors")
@attrs.frozen
class Sum:
    """The sum of priors, itself a prior; of no priors it is 0.

    Args:
        priors: the terms, each with its own weight.

    >>> import torch
    >>> from exml.priors import L2Norm, TotalVariation
    >>> Sum((L2Norm(1.0), TotalVariation(0.1)))(torch.ones(2, 1, 4, 4), ())
    tensor(16.)
    """

    priors: tuple[Prior, ...] = attrs.field(converter=_tuple)

    @property
    def reads_activations(self) -> bool:
        """Whether any of them does."""
        return any(prior.reads_activations for prior in self.priors)

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The sum of their penalties."""
        return sum((prior(images, activations) for prior in self.priors), start=images.new_zeros(()))
