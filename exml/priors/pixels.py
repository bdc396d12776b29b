"""Priors that read the pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import torch

from exml.core.activation import Activation
from exml.core.errors import ShapeError
from exml.core.registry import component
from exml.core.shapes import Images, Scalar
from exml.core.validators import field_error, in_range, one_of, positive_int
from exml.priors._blurring import change_by_kornia, change_by_matrices, change_by_sums, gaussian


@component
@attrs.frozen
class L2Norm:
    r"""Penalize bright and dark pixels by their squared norm (Sec. 4.1, "L² norm penalization").

    .. math:: weight \cdot \lVert x \rVert_2^2

    The squares are summed over the channels and pixels of an image and averaged over the batch; ``weight`` >= 0. In the
    expert's normalized units, 0 is the mean of its training images.

    >>> import torch
    >>> from exml.priors import L2Norm
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
    r"""Penalize differences of neighbors.

    .. math:: weight \cdot \sum_{i, j} \left(|x_{i+1, j} - x_{i, j}| + |x_{i, j+1} - x_{i, j}|\right)

    This anisotropic total variation allows sharp edges, which :class:`GaussianBlur` (squared) smooths away. It is
    summed over the channels and pixels of an image and averaged over the batch; ``weight`` >= 0. It is not in the
    paper, but often used with its priors (Mahendran and Vedaldi, arXiv 1412.0035).

    >>> import torch
    >>> from exml.priors import TotalVariation
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


def _odd(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value % 2 == 0:
        remedy = "choose 3, 5 or 7, so that the kernel has a center"
        raise field_error(instance, attribute, value, "an odd number", remedy)


@component
@attrs.frozen
class GaussianBlur:
    r"""Penalize what a blur removes (Sec. 4.1, "Blur").

    .. math:: weight \cdot \lVert x - \mathrm{blur}(x) \rVert_2^2

    The norm is over the channels and pixels of an image, averaged over the batch; channels are blurred separately.

    Args:
        weight: >= 0.
        kernel_size: pixels, odd; 3 in the paper.
        sigma: standard deviation of the kernel in pixels, > 0.
        padding: beyond the border, the image ``"reflect"``ed at its outermost pixels, or ``"zeros"``. A reflected
            image must be larger than half the kernel in both directions, a padded one as large in one direction.
        squared: whether the norm is squared. The paper's text squares it and has a 3×3 kernel; its code is
            ``GaussianBlur(weight, kernel_size=7, padding="zeros", squared=False)``.
        operator: ``"fused"``, or ``"kornia"``, :func:`kornia.filters.gaussian_blur2d`; they differ by rounding.

    >>> import torch
    >>> from exml.priors import GaussianBlur
    >>> prior = GaussianBlur(0.01)
    >>> prior(torch.full((2, 3, 8, 8), 0.7), ()) < 1e-9
    tensor(True)
    """

    weight: float = attrs.field(validator=in_range(0))
    kernel_size: int = attrs.field(default=3, validator=[positive_int(), _odd])
    sigma: float = attrs.field(default=1.0, validator=in_range(0, open_low=True))
    padding: Literal["reflect", "zeros"] = attrs.field(default="reflect", validator=one_of("reflect", "zeros"))
    squared: bool = attrs.field(default=True, validator=one_of(True, False))
    operator: Literal["fused", "kornia"] = attrs.field(default="fused", validator=one_of("fused", "kornia"))
    reads_activations = False

    def __call__(self, images: Images, activations: Sequence[Activation], /) -> Scalar:
        """The penalty of a batch; raises a ShapeError for images too small for the kernel."""
        # Zeros extend an image without limit, but a kernel far larger than the image only takes time.
        (height, width), reflect = images.shape[-2:], self.padding == "reflect"
        room = min(height, width) - 1 if reflect else max(height, width)
        if self.kernel_size // 2 > room:
            expected = f"images larger than half the kernel of GaussianBlur ({self.kernel_size}x{self.kernel_size})"
            remedy = f"set kernel_size to at most {2 * room + 1}"
            raise ShapeError(expected=expected, got=f"images of {height}x{width} pixels", remedy=remedy)
        precise = images.to(torch.promote_types(images.dtype, torch.float32))
        if self.operator == "kornia":
            changed = change_by_kornia(precise, self.kernel_size, self.sigma, reflect)
        else:
            change = change_by_sums if images.device.type == "cpu" else change_by_matrices
            changed = change(precise, gaussian(self.kernel_size, self.sigma), reflect)
        total = changed.square().sum() if self.squared else torch.linalg.vector_norm(changed, dim=(1, 2, 3)).sum()
        return (self.weight / len(images) * total).to(images.dtype)
