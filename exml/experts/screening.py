"""Screening: find broken and poisoned experts by their logits for images that all experts share.

The images are no expert's data. One expert is judged by bounds that no trained classifier reaches. Where experts share
classes, they are compared too: an expert is suspect if it contradicts a majority that agrees with itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.errors import NonFiniteError
from exml.core.registry import component
from exml.core.shapes import Labels

SEATS = 8
"""The number of experts that one is compared with, so that the cost does not grow with the stream."""
SCALE = 0.003, 1_000.0
"""The range of sound root mean squares."""
DEPENDENCE = 0.01
"""The smallest sound dependence on the image."""
CERTAINTY = 0.1
"""Experts with less certainty contradict nobody: a short training has few labels right."""
AGREEMENT = 0.3
"""The smallest sound agreement on four or more classes."""
OPPOSITION = 0.0
"""The smallest sound agreement on two or three classes, where it varies more."""
CONSTANCY = 0.99, 0.9
"""The smallest suspect constancy, if the median of the other experts is at most the second number."""


@attrs.frozen(eq=False)
class Observation:
    """The logits of one expert for the shared images.

    Args:
        name: of the expert.
        classes: its own, ascending, on the CPU.
        logits: one column per class, on the CPU. The images are in families, such as drawings and noise.
    """

    name: str
    classes: Labels
    logits: Float[Tensor, "families images known"]


@component
@attrs.frozen(kw_only=True)
class Screening:
    """The figures of one expert, and whether it is suspect.

    Args:
        expert: its name.
        scale: the root mean square of its logits, centered over its classes.
        dependence: the share of these that varies with the image, from 0 to 1.
        certainty: 1 minus the mean entropy of its predictions, as a share of the largest entropy; from 0 to 1.
        constancy: the share of images that have its most frequent label.
        agreement: with the experts that share classes with it: the median of their correlations over the images, 1 if
            equal, 0 by chance; None without such experts.
        reasons: why it is suspect; none for a sound expert.
        doubts: contradictions with other experts that these are too few to decide.
        learned: whether the student learned from it.
    """

    expert: str
    scale: float
    dependence: float
    certainty: float
    constancy: float
    agreement: float | None = None
    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    learned: bool = True

    @property
    def problems(self) -> str:
        """Reasons and doubts in one line; empty for a sound expert."""
        return "; ".join((*self.reasons, *self.doubts))


def screen(expert: Observation, others: Sequence[Observation], /) -> Screening:
    """Judge an expert by its figures and by other experts, among which copies of itself do not count.

    Raises:
        NonFiniteError: a logit is NaN or infinite.

    >>> import torch
    >>> from exml.experts.screening import Observation, screen
    >>> logits = 3 * torch.randn(1, 100, 5, generator=torch.Generator().manual_seed(0))
    >>> screen(Observation("loud", torch.arange(5), 1e4 * logits), []).reasons
    ('the root mean square of its logits is 2.67e+04, above 1e+03',)
    """
    scale, dependence, certainty, constancy = _figures(expert)
    reasons: list[str] = []
    doubts: list[str] = []
    if len(expert.classes) > 1:
        if not SCALE[0] <= scale <= SCALE[1]:
            bound = f"below {SCALE[0]:.3g}" if scale < SCALE[0] else f"above {SCALE[1]:.3g}"
            reasons.append(f"the root mean square of its logits is {scale:.3g}, {bound}")
        if dependence < DEPENDENCE:
            reasons.append(f"{dependence:.2%} of its logits depend on the image, below {DEPENDENCE:.0%}")
    others = [other for other in others if not copies(expert, other)]
    pairs = [(other, value) for other in others if (value := _agreement(expert, other)) is not None]
    opposed = [other for other, _ in pairs if contradict(expert, other)]
    if opposed:
        # The largest number of opponents that agree with one of them, which counts itself.
        camp = max(sum(not contradict(one, other) for other in opposed) for one in opposed)
        allies = len(pairs) - len(opposed) + 1
        against = f"it contradicts {', '.join(repr(other.name) for other in opposed[:3])} about the classes they share"
        if camp > max(allies, 1):
            reasons.append(against)
        elif camp == allies:
            doubts.append(f"{against}, and it is undecided which of them is wrong")
    levels = [_figures(other)[-1] for other, _ in pairs if _shared(expert, other) > 2]
    if constancy >= CONSTANCY[0] and len(levels) > 1 and median(levels) <= CONSTANCY[1]:
        reasons.append(f"it has one label for {constancy:.1%} of the images, unlike the experts that share its classes")
    return Screening(
        expert=expert.name,
        scale=scale,
        dependence=dependence,
        certainty=certainty,
        constancy=constancy,
        agreement=median(value for _, value in pairs) if pairs else None,
        reasons=tuple(reasons),
        doubts=tuple(doubts),
    )


def copies(one: Observation, other: Observation, /) -> bool:
    """Whether two observations are of the same expert."""
    return torch.equal(one.classes, other.classes) and torch.allclose(one.logits, other.logits, rtol=1e-3, atol=1e-4)


def contradict(one: Observation, other: Observation, /) -> bool:
    """Whether two experts that are certain of their labels disagree about the classes that they share."""
    value = _agreement(one, other)
    if value is None or value >= (AGREEMENT if _shared(one, other) > 3 else OPPOSITION):
        return False
    return min(_figures(one)[2], _figures(other)[2]) >= CERTAINTY


def _figures(expert: Observation) -> tuple[float, float, float, float]:
    """Scale, dependence, certainty and constancy."""
    logits = expert.logits.double().flatten(0, 1)
    if not bool(logits.isfinite().all()):
        expected = f"finite logits for drawings and noise (expert {expert.name!r})"
        remedy = "leave this expert out of the stream, or get an undamaged copy"
        raise NonFiniteError(expected=expected, got="NaN or infinity", remedy=remedy)
    logits = logits - logits.mean(1, keepdim=True)
    total = logits.square().mean().sqrt()
    varying = (logits - logits.mean(0)).square().mean().sqrt()
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    certainty = 1 - float(entropy) / math.log(max(logits.shape[1], 2))
    frequent = logits.argmax(1).bincount().max() / len(logits)
    dependence = float(varying / total) if total > 0 else 0.0
    return float(total), dependence, certainty, float(frequent)


def _shared(one: Observation, other: Observation) -> int:
    return int(torch.isin(one.classes, other.classes).sum())


def _agreement(one: Observation, other: Observation) -> float | None:
    """The correlation of their logits of a class, centered over the shared ones; the mean over classes and families."""
    if _shared(one, other) < 2:
        return None
    columns: list[Tensor] = []
    for side, its_peer in ((one, other), (other, one)):
        logits = side.logits[..., torch.isin(side.classes, its_peer.classes)].double()
        logits = logits - logits.mean(2, keepdim=True)
        logits = logits - logits.mean(1, keepdim=True)
        columns.append(logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-30))
    return float((columns[0] * columns[1]).sum(1).mean())
