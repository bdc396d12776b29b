"""Calibrations: put the logits of unlike experts on one scale, without data."""

from __future__ import annotations

import math

import attrs
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed, make_generator
from exml.core.shapes import Images, Logits
from exml.core.validators import in_range
from exml.engine.reading import Reader, Reading, matched_temperature, read, reader_of
from exml.generators import EvolvedDrawings

_LEAST_LEVEL = 0.5
_EVOLVED = 200  # images


@component
@attrs.frozen
class CommonScale:
    r"""Puts the logits of every expert on the scale of its certainty about random drawings.

    Experts with other heads, losses and normalizations have logits of other sizes, and the student would prefer the
    classes of the loudest. With the logits z of the expert's k own classes, the input h of its classifier, and V and a
    as in :class:`exml.engine.Reading`:

    .. math::
        u &= (z - \bar z) / \sqrt{\lVert h \rVert}, \qquad b = u / T \\
        s &= b - \tfrac12 (\log \sum_c e^{b_c} - \log k) \\
        q &= -\log(1 - \lVert V a \rVert^2 / \lVert a \rVert^2) \\
        S &= \text{scale} \cdot \left(s - \text{offset} \cdot M + \text{typicality} \cdot (q - \mu)/(\sigma \ell)\right)

    T is the temperature at which the mean entropy of softmax(u / T) over the drawings is ``entropy`` · log k. M is the
    mean of max s over the drawings, μ and σ are the mean and standard deviation of q. The level ℓ, at least ½, is the
    mean of (q - μ)/σ over drawings that evolved towards the expert's classes, so that the images of all experts have
    about the same typicality.

    A module whose classifier is not found, such as a function, has h = 1. Without a narrowing layer there is no last
    term. The margin of an expert of one class is 0, and only the last term tells images apart. Units of other classes
    are scaled alike. The logits of previous students need no calibration: use :class:`exml.normalizers.RawLogits`.

    Args:
        entropy: in (0, 1).
        offset: >= 0.
        typicality: >= 0.
        scale: > 0; 3 makes the logits about as large as those of a trained classifier.
        drawings: the random drawings are its pool, and ℓ is the mean over those that it evolves.

    >>> import torch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> loud = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> _ = loud.load_state_dict({name: 9 * tensor for name, tensor in net.state_dict().items()})
    >>> scale = CommonScale(drawings=EvolvedDrawings(steps=5, pool=50))
    >>> one, other = (scale(Expert(module, (3, 7), (1, 8, 8)), 0) for module in (net, loud))
    >>> images = torch.rand(5, 1, 8, 8)
    >>> torch.allclose(one.logits(images), other.logits(images), atol=1e-4)
    True
    """

    entropy: float = attrs.field(default=0.5, validator=in_range(0, 1, open_low=True))
    offset: float = attrs.field(default=0.25, validator=in_range(0))
    typicality: float = attrs.field(default=0.25, validator=in_range(0))
    scale: float = attrs.field(default=3.0, validator=in_range(0, open_low=True))
    drawings: EvolvedDrawings = attrs.field(
        factory=lambda: EvolvedDrawings(steps=60, snapshots=1, copies=1, pool=2_000)
    )

    def __call__(self, expert: Expert, seed: int, /) -> Expert:
        """The same expert with calibrated logits; its module is shared, and stays unchanged."""
        reader = reader_of(expert)
        draws = make_generator(expert.device, seed, "common-scale")
        pool = read(expert, reader, self.drawings.random(self.drawings.pool, expert.image_shape, draws))
        own = expert.own_units.to(expert.device)
        temperature = matched_temperature(_margins(pool, own)[:, own], self.entropy)
        surplus = half_surplus(_margins(pool, own) / temperature, own)
        offset = self.offset * float(surplus[:, own].amax(1).mean())
        center, unit = 0.0, 0.0
        if pool.typicality is not None and self.typicality:
            center, spread = float(pool.typicality.mean()), max(float(pool.typicality.std()), 1e-6)
            evolved = self.drawings(expert, max(_EVOLVED, len(own)), derive_seed(seed, "evolved")).images
            typical = read(expert, reader, evolved).typicality
            assert typical is not None
            level = max((float(typical.mean()) - center) / spread, _LEAST_LEVEL)
            unit = self.typicality / (spread * level)
        constants = (temperature, offset, center, unit, self.scale)
        return attrs.evolve(expert, module=_Calibrated(expert.module, reader, own, constants))


def half_surplus(matched: Float[Tensor, "batch units"], own: Tensor) -> Float[Tensor, "batch units"]:
    """``b - ½ (logsumexp b - log k)``, the log-sum-exp over the k own units.

    >>> import torch
    >>> half_surplus(torch.tensor([[2.0, 2.0, 7.0]]), torch.tensor([0, 1]))
    tensor([[1., 1., 6.]])
    """
    return matched - 0.5 * (matched[:, own].logsumexp(1, keepdim=True) - math.log(len(own)))


def _margins(reading: Reading, own: Tensor) -> Logits:
    return (reading.logits - reading.logits[:, own].mean(1, keepdim=True)) / reading.norm.clamp_min(1e-6).sqrt()


class _Calibrated(nn.Module):
    """A module with the logits of :class:`CommonScale`; it shares the module, and adds no weights."""

    own: Tensor

    def __init__(self, module: nn.Module, reader: Reader, own: Tensor, constants: tuple[float, ...]) -> None:
        super().__init__()
        self.module, self.training = module, module.training
        self._reader, self._constants = reader, constants
        self.register_buffer("own", own, persistent=False)

    def forward(self, images: Images) -> Logits:
        temperature, offset, center, unit, scale = self._constants
        reading = self._reader(self.module, images)
        logits = half_surplus(_margins(reading, self.own) / temperature, self.own) - offset
        if reading.typicality is not None:
            logits = logits + unit * (reading.typicality - center)[:, None]
        return scale * logits
