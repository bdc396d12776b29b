"""Priors that read the pixels alone."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from exml.core.activation import Activation
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.core.validators import in_range


@component
@attrs.frozen
class L2Norm:
    """Penalize bright and dark pixels: ``weight · ‖x‖²`` (Sec. 4.1, "L² norm penalization").

    The squares are summed over the channels and pixels of an image and averaged over the batch. In the expert's
    normalized units, 0 is the mean of its training images.

    Args:
        weight: >= 0.

    >>> L2Norm(0.5)(torch.ones(4, 3, 2, 2), ())
    tensor(6.)
    """

    weight: float = attrs.field(validator=in_range(0))
    reads_activations = False

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch; ``activations`` are not read."""
        # In half precision, the sum over a batch would overflow.
        total = images.square().sum(dtype=torch.promote_types(images.dtype, torch.float32))
        return (self.weight / len(images) * total).to(images.dtype)


@component
@attrs.frozen
class TotalVariation:
    """Penalize differences of neighbors: ``weight · Σ (|x[i+1, j] - x[i, j]| + |x[i, j+1] - x[i, j]|)``.

    This is the anisotropic total variation with absolute differences: it allows sharp edges, which
    :class:`GaussianBlur` (squared) smooths away. It is summed over the channels and pixels of an image and averaged
    over the batch. It is not in the paper, but often used with its priors (Mahendran and Vedaldi, arXiv 1412.0035).

    Args:
        weight: >= 0.

    >>> step = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> TotalVariation(1.0)(step, ())
    tensor(2.)
    """

    weight: float = attrs.field(validator=in_range(0))
    reads_activations = False

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch; ``activations`` are not read."""
        # In half precision, the sum over a batch would overflow.
        precise = torch.promote_types(images.dtype, torch.float32)
        total = images.diff(dim=2).abs().sum(dtype=precise) + images.diff(dim=3).abs().sum(dtype=precise)
        return (self.weight / len(images) * total).to(images.dtype)
