"""Normalizers: put the logits of one teacher on a common scale (Eqs. 6 and 7)."""

from __future__ import annotations

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.registry import component
from exml.core.shapes import ClassMask, Logits
from exml.core.validators import in_range


def _mean_over(values: Logits, known: ClassMask) -> Float[Tensor, "batch 1"]:
    """The mean of each row over the known columns; 0 without known columns."""
    return torch.where(known, values, 0).sum(1, keepdim=True) / known.sum().clamp_min(1)


@component
@attrs.frozen
class CenterLogits:
    r"""Subtract the mean of each row over the known classes: *normalize* of Eqs. 6 and 7 in the paper's code.

    .. math:: z - \bar{z}

    >>> import torch
    >>> from exml.normalizers import CenterLogits
    >>> CenterLogits()(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([True, True, False]))
    tensor([[-1.,  1.,  5.]])
    """

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Center each row; without a known class it stays unchanged."""
        return logits - _mean_over(logits, known)


@component
@attrs.frozen
class RawLogits:
    """Leave the logits unchanged.

    >>> import torch
    >>> from exml.normalizers import RawLogits
    >>> RawLogits()(torch.tensor([[1.0, 3.0]]), torch.tensor([True, True]))
    tensor([[1., 3.]])
    """

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """``logits`` themselves."""
        return logits


@component
@attrs.frozen
class StandardizeLogits:
    r"""Center each row, and divide it by its standard deviation, both over the known classes (Eqs. 6 and 7).

    .. math:: (z - \bar{z}) / \sigma(z)

    Args:
        eps: >= 0; a row whose (biased) standard deviation does not exceed it is only centered.

    >>> import torch
    >>> from exml.normalizers import StandardizeLogits
    >>> StandardizeLogits()(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([True, True, False]))
    tensor([[-1.,  1.,  3.]])
    """

    eps: float = attrs.field(default=1e-5, validator=in_range(0))

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Standardize each row; without a known class it stays unchanged."""
        centered = logits - _mean_over(logits, known)
        norm = torch.linalg.vector_norm(torch.where(known, centered, 0), dim=1, keepdim=True)
        std = norm / known.sum().clamp_min(1).to(norm.dtype).sqrt()
        return centered / torch.where(std > self.eps, std, 1)


@component
@attrs.frozen
class L2NormalizeLogits:
    r"""Divide each row by its L² norm over the known classes (Eqs. 6 and 7).

    .. math:: z / \lVert z \rVert_2

    Args:
        eps: >= 0; a row whose norm does not exceed it stays unchanged.

    >>> import torch
    >>> from exml.normalizers import L2NormalizeLogits
    >>> L2NormalizeLogits()(torch.tensor([[3.0, 4.0, 10.0]]), torch.tensor([True, True, False]))
    tensor([[0.6000, 0.8000, 2.0000]])
    """

    eps: float = attrs.field(default=1e-5, validator=in_range(0))

    def __call__(self, logits: Logits, known: ClassMask, /) -> Logits:
        """Divide each row by its norm; without a known class it stays unchanged."""
        norm = torch.linalg.vector_norm(torch.where(known, logits, 0), dim=1, keepdim=True)
        return logits / torch.where(norm > self.eps, norm, 1)
