"""The distance of the student's probabilities from the target's."""

from __future__ import annotations

import attrs
import torch
from torch.nn import functional

from exml.core.registry import component
from exml.core.shapes import Labels, Logits, Scalar
from exml.core.targets import Target
from exml.core.validators import in_range


@component
@attrs.frozen
class KLDivergence:
    """``T² · KL(softmax(ỹ / T) ‖ softmax(y_curr / T))``, averaged over the batch (Hinton et al., arXiv 1503.02531).

    Both softmaxes run over the classes of an image for which a teacher gave a value; an image without any counts as 0.
    T² keeps the gradient at about one size whatever the temperature.

    Args:
        temperature: T > 0; the larger, the more the small probabilities count.

    >>> everything = torch.ones(1, 2, dtype=torch.bool)
    >>> target = Target(torch.tensor([[1.0, 3.0]]), everything, everything)
    >>> KLDivergence()(torch.tensor([[2.0, 4.0]]), target, torch.tensor([0])).abs() < 1e-6
    tensor(True)
    """

    temperature: float = attrs.field(default=2.0, validator=in_range(0, open_low=True))

    def __call__(self, logits: Logits, target: Target, labels: Labels, /) -> Scalar:
        """The loss of a batch; ``labels`` are not read."""
        # Finite, so that 0 times the difference of two logarithms is 0, and not NaN as with infinity.
        lowest = torch.finfo(logits.dtype).min / 2
        student = (logits / self.temperature).masked_fill(~target.defined, lowest).log_softmax(1)
        teacher = (target.logits / self.temperature).masked_fill(~target.defined, lowest).log_softmax(1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence
