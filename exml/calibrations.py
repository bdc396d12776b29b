"""Calibrations: put the logits of unlike experts on one scale, without data (Eqs. 6 and 7 generalized).

A :class:`CommonScale` is a sequence of steps, each fitted to one expert on drawings and then applied to every image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import attrs
from torch import nn

from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed, make_generator
from exml.core.serialization import OMIT_DEFAULT
from exml.core.shapes import Images, Logits, State
from exml.core.validators import in_range
from exml.engine.reading import Reader, matched_temperature, read, reader_of
from exml.generators import EvolvedDrawings
from exml.protocols import CalibrationStep, GenerationContext, Reading

_LEAST_LEVEL = 0.5
_EVOLVED = 200  # images
_DRAWINGS = EvolvedDrawings(steps=60, snapshots=1, copies=1, pool=2_000)
_Transform = Callable[[Reading], Logits]


@component
@attrs.frozen
class Center:
    """Subtract the mean over the expert's classes from each row (Eq. 6).

    >>> from exml.calibrations import Center
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.tensor([[1.0, 3.0, 9.0]]), torch.ones(1, 1), None, torch.tensor([0, 1]))
    >>> Center()(drawings, lambda: drawings)(drawings)
    tensor([[-1.,  1.,  7.]])
    """

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Nothing to fit."""
        return lambda reading: reading.logits - reading.own_logits.mean(1, keepdim=True)


@component
@attrs.frozen
class RootNorm:
    r"""Divide each row by √‖h‖, where h is the input of the classifier; 1 where the classifier is not found.

    The logits of an image grow with the norm of its features, and so do the errors of the largest logit.

    >>> from exml.calibrations import RootNorm
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.tensor([[2.0, -2.0]]), torch.tensor([[4.0]]), None, torch.tensor([0, 1]))
    >>> RootNorm()(drawings, lambda: drawings)(drawings)
    tensor([[ 1., -1.]])
    """

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Nothing to fit."""
        return lambda reading: reading.logits / reading.root_norm


@component
@attrs.frozen
class Probabilities:
    """Replace the logits by the probabilities over all outputs of the expert, trained or not.

    >>> from exml.calibrations import Probabilities
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.zeros(1, 4), torch.ones(1, 1), None, torch.tensor([0, 1]))
    >>> Probabilities()(drawings, lambda: drawings)(drawings)
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Nothing to fit."""
        return lambda reading: reading.logits.softmax(1)


@component
@attrs.frozen
class MatchedTemperature:
    """Divide by the temperature at which the mean entropy over random drawings is ``entropy`` times its maximum.

    Args:
        entropy: in (0, 1).

    >>> import math, torch
    >>> from exml.calibrations import MatchedTemperature
    >>> from exml.protocols import Reading
    >>> drawings = Reading(torch.tensor([[0.0, 2.0], [5.0, 1.0]]), torch.ones(2, 1), None, torch.tensor([0, 1]))
    >>> probabilities = MatchedTemperature(0.5)(drawings, lambda: drawings)(drawings).softmax(1)
    >>> torch.special.entr(probabilities).sum(1).mean() / math.log(2)
    tensor(0.5000)
    """

    entropy: float = attrs.field(default=0.5, validator=in_range(0, 1, open_low=True))

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Find the temperature by bisection; it is 1 for an expert of one class."""
        temperature = matched_temperature(drawings.own_logits, self.entropy)
        return lambda reading: reading.logits / temperature


@component
@attrs.frozen
class Energy:
    r"""Subtract ``weight`` · (logsumexp - log k) over the k classes of the expert.

    The log-sum-exp is the negative energy of an image. With weight 1, the logits become log-probabilities, up to log k.

    Args:
        weight: in [0, 1].

    >>> from exml.calibrations import Energy
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.tensor([[2.0, 2.0, 7.0]]), torch.ones(1, 1), None, torch.tensor([0, 1]))
    >>> Energy(0.5)(drawings, lambda: drawings)(drawings)
    tensor([[1., 1., 6.]])
    """

    weight: float = attrs.field(default=0.5, validator=in_range(0, 1))

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Nothing to fit."""
        usual = math.log(len(drawings.own))

        def transform(reading: Reading) -> Logits:
            return reading.logits - self.weight * (reading.own_logits.logsumexp(1, keepdim=True) - usual)

        return transform


@component
@attrs.frozen
class PoolOffset:
    """Subtract ``share`` times the mean over random drawings of the largest logit of the expert's classes.

    Args:
        share: in [0, 1].

    >>> from exml.calibrations import PoolOffset
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.tensor([[0.0, 2.0], [4.0, 1.0]]), torch.ones(2, 1), None, torch.tensor([0, 1]))
    >>> PoolOffset(0.5)(drawings, lambda: drawings)(drawings)
    tensor([[-1.5000,  0.5000],
            [ 2.5000, -0.5000]])
    """

    share: float = attrs.field(default=0.25, validator=in_range(0, 1))

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Measure the largest logits of the drawings."""
        offset = self.share * float(drawings.own_logits.amax(1).mean())
        return lambda reading: reading.logits - offset


@component
@attrs.frozen
class TwoAnchors:
    """Scale and shift so that the mean largest logit is 0 over random drawings and 1 over evolved ones.

    >>> import attrs, torch
    >>> from exml.calibrations import TwoAnchors
    >>> from exml.protocols import Reading
    >>> drawings = Reading(torch.tensor([[0.0, 2.0]]), torch.ones(1, 1), None, torch.tensor([0, 1]))
    >>> evolved = attrs.evolve(drawings, logits=torch.tensor([[6.0, 0.0]]))
    >>> TwoAnchors()(drawings, lambda: evolved)(evolved)
    tensor([[ 1.0000, -0.5000]])
    """

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Measure the largest logits of both kinds of drawings."""
        low, high = (float(reading.own_logits.amax(1).mean()) for reading in (drawings, evolved()))
        return lambda reading: (reading.logits - low) / max(high - low, 1e-6)


@component
@attrs.frozen
class Typicality:
    r"""Add how typical an image is of the expert's training images, as its weights tell (:mod:`exml.engine.reading`).

    With ``q = -log(1 - ‖V a‖² / ‖a‖²)``, where a is the input of the narrowing layer and V spans what it learned, the
    number added to every logit of an image is

    .. math:: w \, (q - \mu) / (\sigma \ell)

    μ and σ are the mean and standard deviation over random drawings. The level ℓ, at least ½, is the mean of
    (q - μ)/σ over drawings that evolved towards the expert's classes, so that the images of all experts have about the
    same typicality. An expert without a narrowing layer keeps its logits.

    Args:
        weight: w >= 0.

    >>> import attrs, torch
    >>> from exml.calibrations import Typicality
    >>> from exml.protocols import Reading
    >>> drawings = Reading(torch.zeros(3, 2), torch.ones(3, 1), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1]))
    >>> evolved = attrs.evolve(drawings, typicality=torch.tensor([5.0, 5.0, 5.0]))
    >>> Typicality(0.25)(drawings, lambda: evolved)(evolved)[0]
    tensor([0.2500, 0.2500])
    """

    weight: float = attrs.field(default=0.25, validator=in_range(0))

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Measure the typicality of both kinds of drawings."""
        if drawings.typicality is None:
            return lambda reading: reading.logits
        center, spread = float(drawings.typicality.mean()), max(float(drawings.typicality.std()), 1e-6)
        typical = evolved().typicality
        assert typical is not None
        unit = self.weight / (spread * max((float(typical.mean()) - center) / spread, _LEAST_LEVEL))

        def transform(reading: Reading) -> Logits:
            assert reading.typicality is not None
            return reading.logits + unit * (reading.typicality - center)[:, None]

        return transform


@component
@attrs.frozen
class Scale:
    """Multiply by a constant.

    Args:
        factor: > 0.

    >>> from exml.calibrations import Scale
    >>> from exml.protocols import Reading
    >>> import torch
    >>> drawings = Reading(torch.tensor([[1.0, -1.0]]), torch.ones(1, 1), None, torch.tensor([0, 1]))
    >>> Scale(3.0)(drawings, lambda: drawings)(drawings)
    tensor([[ 3., -3.]])
    """

    factor: float = attrs.field(validator=in_range(0, open_low=True))

    def __call__(self, drawings: Reading, evolved: Callable[[], Reading], /) -> _Transform:
        """Nothing to fit."""
        return lambda reading: self.factor * reading.logits


STEPS: tuple[CalibrationStep, ...] = (
    Center(),
    RootNorm(),
    MatchedTemperature(),
    Energy(),
    PoolOffset(),
    Typicality(),
    Scale(3.0),
)
"""Center, divide by the norm and by a matched temperature, subtract half of the energy and a quarter of the pool's
mean maximum, add the typicality, and multiply by 3, which makes the logits about as large as those of a trained
classifier."""
RELATED: tuple[CalibrationStep, ...] = (Center(), Typicality(6.4))
"""Center, and add the typicality. Experts of one origin have logits of one size, and their typicality is precise."""


@component
@attrs.frozen
class CommonScale:
    r"""Puts the logits of every expert on one scale by a sequence of steps.

    Experts with other heads, losses and normalizations have logits of other sizes, and the student would prefer the
    classes of the loudest. Each step is fitted to the expert on random drawings, and on drawings that evolved towards
    its classes, and changes the logits that the steps before it left.

    With the logits z of the expert's k own classes, the default steps are

    .. math::
        b &= (z - \bar{z}) / (T \sqrt{\lVert h \rVert}) \\
        s &= b - \frac{1}{2} (\log \sum_c e^{b_c} - \log k) \\
        S &= 3 \left(s - \frac{1}{4} M + w \, (q - \mu)/(\sigma \ell)\right)

    M is the mean of max s over the random drawings. The other symbols are those of the steps. Units of other classes
    are scaled alike. The logits of previous students need no calibration: use :class:`exml.normalizers.RawLogits`.

    Args:
        steps: applied in their order.
        related: the steps of an expert whose start is known, or known from other experts
            (:attr:`exml.engine.Reader.related`).
        drawings: the random drawings are its pool; the evolved ones are its samples.
        related_drawings: those of the related steps. They differ most in their typicality if some strokes are light
            and others dark, which makes its scale more precise.

    >>> import exml, torch
    >>> from exml.calibrations import CommonScale
    >>> from exml.generators import EvolvedDrawings
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> loud = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> _ = loud.load_state_dict({name: 9 * tensor for name, tensor in net.state_dict().items()})
    >>> scale = CommonScale(drawings=EvolvedDrawings(steps=5, pool=50))
    >>> one, other = (scale(exml.Expert(module, (3, 7), (1, 8, 8)), 0) for module in (net, loud))
    >>> images = torch.rand(5, 1, 8, 8)
    >>> torch.allclose(one.logits(images), other.logits(images), atol=1e-4)
    True
    """

    steps: tuple[CalibrationStep, ...] = attrs.field(default=STEPS, converter=tuple)
    related: tuple[CalibrationStep, ...] = attrs.field(default=RELATED, converter=tuple)
    drawings: EvolvedDrawings = _DRAWINGS
    related_drawings: EvolvedDrawings = attrs.field(
        default=attrs.evolve(_DRAWINGS, polarity="any"), metadata=OMIT_DEFAULT
    )

    def __call__(self, expert: Expert, seed: int, start: State | None = None, /) -> Expert:
        """The same expert with calibrated logits; its module is shared, and stays unchanged."""
        reader = reader_of(expert, start)
        draws = make_generator(expert.device, seed, "common-scale")
        steps, drawings = (self.related, self.related_drawings) if reader.related else (self.steps, self.drawings)
        pool = read(expert, reader, drawings.random(drawings.pool, expert.image_shape, draws))

        @cache
        def evolved() -> Reading:
            context, count = GenerationContext(start=start), max(_EVOLVED, len(expert.own_units))
            images = drawings(expert, count, derive_seed(seed, "evolved"), context).images
            return read(expert, reader, images)

        transforms: list[_Transform] = []
        for step in steps:
            done = tuple(transforms)
            transforms.append(step(_after(done, pool), lambda done=done: _after(done, evolved())))
        return attrs.evolve(expert, module=_Calibrated(expert.module, reader, transforms))


def _after(transforms: Sequence[_Transform], reading: Reading) -> Reading:
    for transform in transforms:
        reading = attrs.evolve(reading, logits=transform(reading))
    return reading


class _Calibrated(nn.Module):
    """A module with calibrated logits; it shares the module, and adds no weights."""

    def __init__(self, module: nn.Module, reader: Reader, transforms: Sequence[_Transform]) -> None:
        super().__init__()
        self.module, self.training = module, module.training
        self._reader, self._transforms = reader, transforms

    def forward(self, images: Images) -> Logits:
        return _after(self._transforms, self._reader(self.module, images)).logits
