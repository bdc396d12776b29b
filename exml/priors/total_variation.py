"""How much neighbouring pixels differ."""

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
class TotalVariation:
    """Penalise differences of neighbours: ``weight · Σ (|x[i+1, j] - x[i, j]| + |x[i, j+1] - x[i, j]|)``.

    This is the anisotropic total variation with absolute differences: it allows sharp edges, where
    :class:`GaussianBlur` (squared) smooths them away. It is summed over channels and pixels of an image and averaged
    over the batch. Not in the paper; it is the usual companion of its priors (Mahendran and Vedaldi, arXiv 1412.0035).

    Args:
        weight: >= 0.

    >>> step = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> TotalVariation(1.0)(step, ())
    tensor(2.)
    """

    weight: float = attrs.field(validator=in_range(0))

    @property
    def reads_activations(self) -> bool:
        """Never: pixels are all it reads."""
        return False

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch; ``activations`` are not read."""
        # In half precision, the sum over a batch would not fit.
        precise = torch.promote_types(images.dtype, torch.float32)
        total = images.diff(dim=2).abs().sum(dtype=precise) + images.diff(dim=3).abs().sum(dtype=precise)
        return (self.weight / len(images) * total).to(images.dtype)
