"""The L² norm of the pixels."""

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
    """Penalise bright and dark pixels: ``weight · ‖x‖²`` (Sec. 4.1, "L² norm penalization").

    The squares are summed over channels and pixels of an image and averaged over the batch. In the expert's normalised
    units, 0 is the mean of its training images.

    Args:
        weight: >= 0.

    >>> L2Norm(0.5)(torch.ones(4, 3, 2, 2), ())
    tensor(6.)
    """

    weight: float = attrs.field(validator=in_range(0))

    @property
    def reads_activations(self) -> bool:
        """Never: pixels are all it reads."""
        return False

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch; ``activations`` are not read."""
        # In half precision, the sum over a batch would not fit.
        total = images.square().sum(dtype=torch.promote_types(images.dtype, torch.float32))
        return (self.weight / len(images) * total).to(images.dtype)
