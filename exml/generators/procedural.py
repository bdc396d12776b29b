"""Procedural images: strokes, dead leaves and smooth noise, each a pure function of its random generator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import make_generator
from exml.core.samples import Samples
from exml.core.shapes import Images
from exml.core.validators import one_of
from exml.generators._common import as_tuple, check_size, labeled
from exml.protocols import STANDALONE, GenerationContext

Kind: TypeAlias = Literal["strokes", "dead-leaves", "noise"]
Polarity: TypeAlias = Literal["light", "dark", "any"]

_KINDS: tuple[Kind, ...] = ("strokes", "dead-leaves", "noise")
_FAINTEST = 0.05  # a darker image counts as black and is not stretched to white
_STROKES = 5  # maximum per image
_SEGMENTS = 8  # straight segments of a curve
_THIN, _THICK = 0.06, 0.35  # width of a pen, in units of the short side
_THIN_PIXELS = 1.2  # thinner strokes fade into the ground
_LEAVES = 40
_SMALL, _LARGE = 0.05, 0.5  # radii in units of the short side


@component
@attrs.frozen
class ProceduralImages:
    """Random drawings, dead leaves and smooth noise in the expert's image shape, labeled by the expert.

    They resemble no class, but have the edges, scales and variety that white noise lacks (compare Baradad et al.,
    "Learning to see by looking at noise", 2021). Two thirds of the images with several channels are in color.

    Args:
        kinds: the families in turn, of ``"strokes"``, ``"dead-leaves"`` and ``"noise"``.
        polarity: of strokes: ``"light"`` on a dark ground, ``"dark"`` on a light one, or ``"any"``, half of each.
        full_contrast: whether to scale each image until its brightest value is 1, as in a scan.

    >>> import exml, torch
    >>> from exml.generators import ProceduralImages
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> samples = ProceduralImages(kinds=("strokes",))(expert, 6, 0)
    >>> samples.images.shape, bool((samples.images >= 0).all()), bool((samples.images <= 1).all())
    (torch.Size([6, 1, 8, 8]), True, True)
    """

    kinds: tuple[Kind, ...] = attrs.field(default=_KINDS, converter=as_tuple)
    polarity: Polarity = attrs.field(default="light", validator=one_of("light", "dark", "any"))
    full_contrast: bool = attrs.field(default=False, validator=one_of(True, False))
    uses_priors = False
    uses_real_data = False

    @kinds.validator  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUntypedFunctionDecorator]
    def _check_kinds(self, _: object, kinds: tuple[object, ...]) -> None:
        if not kinds or not set(kinds) <= set(_KINDS):
            raise SettingError(
                expected=f"one or more of {_KINDS} for ProceduralImages.kinds",
                got=repr(kinds),
                remedy="choose one or more of these",
            )

    @classmethod
    def resembling(cls, channels: int, means: Sequence[float]) -> ProceduralImages:
        """Those that have most in common with images of which little is known, with full contrast.

        Args:
            channels: of the images. All kinds of drawings for color, strokes for gray.
            means: of the first channel, by the normalization of the experts, one for each. If gray images are dark on
                average, the strokes are light.

        >>> from exml.generators import ProceduralImages
        >>> ProceduralImages.resembling(1, [0.13, 0.0]).polarity
        'light'
        """
        if channels > 1:
            return cls(polarity="any", full_contrast=True)
        polarity: Polarity = "light" if sum(means) < len(means) / 2 else "dark"
        return cls(("strokes",), polarity=polarity, full_contrast=True)

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; raises :class:`exml.core.errors.BufferSizeError` if it is below 1."""
        check_size(size)
        families = {
            "strokes": partial(strokes, polarity=self.polarity),
            "dead-leaves": dead_leaves,
            "noise": smooth_noise,
        }
        _, height, width = expert.image_shape
        # About the number of pixels that fit a processor's cache; depends on the image shape alone.
        batch = min(max((1 << 17) // (height * width), 32), 2048)
        images = torch.empty(size, *expert.image_shape, device=expert.device)
        for begin in range(0, size, batch):
            part = images[begin : begin + batch]
            for turn, kind in enumerate(self.kinds):
                places = part[turn :: len(self.kinds)]
                draws = make_generator(expert.device, seed, "procedural-images", begin, turn)
                if len(places):
                    places.copy_(families[kind](len(places), expert.image_shape, draws))
            if self.full_contrast:
                part /= part.amax((1, 2, 3), keepdim=True).clamp_min(_FAINTEST)
            context.journal.record(min(begin + batch, size), size, dict)
        return labeled(expert, images, context)


def strokes(count: int, image_shape: tuple[int, int, int], draws: torch.Generator, polarity: Polarity) -> Images:
    """One to five cubic Bézier curves per image, like signs of an unknown script, stretched to fill most of it.

    Many strokes begin where the previous one ended. ``"light"`` strokes lie on a ground that is black in four of five
    images and dark in the others; ``"dark"`` is the inverse; ``"any"`` is half of each, on grounds up to medium
    brightness. Returns ``(count, *image_shape)``, in [0, 1], on the device of ``draws``.
    """
    channels, height, width = image_shape
    side = min(height, width)
    number = 1 + (_STROKES * uniform(draws, count, 1)).long()
    shown = torch.arange(_STROKES, device=draws.device) < number
    thin = max(_THIN * side, _THIN_PIXELS)
    pen = thin * max(_THICK * side / thin, 1.0) ** uniform(draws, count, 1)
    points = _fill(_curves(count, draws), shown, pen, height, width, draws)
    radii = 0.5 * pen * uniform(draws, count, _STROKES, low=0.7, high=1.3)
    softness = uniform(draws, count, 1, low=0.8, high=1.8)
    ground, inks = _colors(count, channels, draws, polarity)
    image = ground[:, :, None].expand(-1, -1, height * width)
    x, y = pixel_centers(height, width, draws.device)
    for stroke in range(_STROKES):
        distance = _distance(points[:, stroke], x, y)
        cover = ((radii[:, stroke, None] - distance) / softness + 0.5).clamp(0, 1) * shown[:, stroke, None]
        image = torch.lerp(image, inks[:, stroke, :, None], cover[:, None])
    if polarity != "light":
        inverted = uniform(draws, count, 1, 1) < (1.0 if polarity == "dark" else 0.5)
        image = torch.where(inverted, 1 - image, image)
    return image.reshape(count, channels, height, width)


def _curves(count: int, draws: torch.Generator) -> Tensor:
    """Points on the curves, ``(count, stroke, point, 2)``, in arbitrary units."""
    control = uniform(draws, count, _STROKES, 4, 2)
    linked = uniform(draws, count, _STROKES, 1) < 0.6
    for stroke in range(1, _STROKES):
        control[:, stroke, 0] = torch.where(linked[:, stroke], control[:, stroke - 1, 3], control[:, stroke, 0])
    thirds = torch.linspace(0, 1, 4, device=draws.device).view(4, 1)
    chord = torch.lerp(control[:, :, :1], control[:, :, 3:], thirds)
    bent = torch.lerp(chord, control, uniform(draws, count, _STROKES, 1, 1, high=1.5))
    t = torch.linspace(0, 1, _SEGMENTS + 1, device=draws.device)
    bernstein = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return bernstein @ bent


def _fill(points: Tensor, shown: Tensor, pen: Tensor, height: int, width: int, draws: torch.Generator) -> Tensor:
    """Move and stretch the drawings, independently in each direction, to a large part of the image; in pixels."""
    mask = shown[:, :, None, None]
    low, high = points.where(mask, torch.inf).amin((1, 2)), points.where(mask, -torch.inf).amax((1, 2))
    frame = points.new_tensor([width, height])
    wanted = (frame * uniform(draws, len(points), 2, low=0.6) - pen).clamp_min(0.2 * frame)
    # The limits keep a straight vertical stroke, which has no width, from being stretched without bound.
    stretch = (wanted / (high - low).clamp_min(1e-3)).clamp_max(4 * min(height, width))
    center = frame * uniform(draws, len(points), 2, low=0.44, high=0.56)
    return (points - ((low + high) / 2)[:, None, None]) * stretch[:, None, None] + center[:, None, None]


def _colors(count: int, channels: int, draws: torch.Generator, polarity: Polarity) -> tuple[Tensor, Tensor]:
    """The ground, ``(count, channels)``, and the lighter ink of every stroke, ``(count, stroke, channels)``."""
    tint = palette(draws, count, _STROKES + 1, channels)
    tint = tint / tint.amax(2, keepdim=True).clamp_min(1e-3)
    level = uniform(draws, count, 1, high=0.6) if polarity == "any" else 0.4 * uniform(draws, count, 1, low=-4.0)
    ground = level.clamp_min(0) * tint[:, 0]
    strength = uniform(draws, count, 1, 1, low=0.7) * uniform(draws, count, _STROKES, 1, low=0.4)
    return ground, ground[:, None] + (1 - ground[:, None]) * strength * tint[:, 1:]


def _distance(points: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """From each pixel to the nearest point of a chain of straight segments, ``(count, pixels)``."""
    start, along = points[:, :-1, :, None], points.diff(dim=1)[..., None]
    from_x, from_y = x - start[:, :, 0], y - start[:, :, 1]
    along_x, along_y = along[:, :, 0], along[:, :, 1]
    length = (along_x**2 + along_y**2).clamp_min(1e-8)
    nearest = ((from_x * along_x + from_y * along_y) / length).clamp(0, 1)
    return torch.hypot(from_x - nearest * along_x, from_y - nearest * along_y).amin(1)


def dead_leaves(count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
    """Forty overlapping ellipses and rectangles per image, of radii with density r^-3, each with a linear shade.

    The power law makes them look alike at every scale, as natural images do (Lee, Mumford and Huang, "Occlusion Models
    for Natural Images", 2001). Returns ``(count, *image_shape)``, in [0, 1], on the device of ``draws``.
    """
    channels, height, width = image_shape
    zoom = 3 ** uniform(draws, count, 1, low=-0.5, high=1.0)
    # The inverse of the cumulative distribution of r^-3 between the smallest and the largest radius.
    radii = (_SMALL**-2 - uniform(draws, count, _LEAVES) * (_SMALL**-2 - _LARGE**-2)) ** -0.5
    radii = radii * zoom * min(height, width)
    stretch = 3 ** uniform(draws, count, _LEAVES, low=-0.5, high=0.5)
    angle = torch.pi * uniform(draws, count, _LEAVES)
    middle_x = width * uniform(draws, count, _LEAVES, low=-0.1, high=1.1)
    middle_y = height * uniform(draws, count, _LEAVES, low=-0.1, high=1.1)
    square = uniform(draws, count, _LEAVES) < 0.5
    shade = uniform(draws, count, _LEAVES, low=-0.3, high=0.3)
    colors = palette(draws, count, _LEAVES + 1, channels)
    x, y = pixel_centers(height, width, draws.device)
    image = colors[:, 0, :, None].expand(-1, -1, height * width)
    leaves = torch.stack((middle_x, middle_y, angle.cos(), angle.sin(), stretch, shade, radii))[..., None]
    for leaf in range(_LEAVES):
        left, top, cos, sin, long, slope, radius = leaves[:, :, leaf]
        right, down = x - left, y - top
        along, across = (right * cos + down * sin) / long, (down * cos - right * sin) * long
        rectangle, ellipse = torch.maximum(along.abs(), across.abs()), torch.hypot(along, across)
        cover = (radius - torch.where(square[:, leaf, None], rectangle, ellipse) + 0.5).clamp(0, 1)
        shaded = colors[:, leaf + 1, :, None] + (slope * along / radius)[:, None]
        image = torch.lerp(image, shaded, cover[:, None])
    return image.clamp(0, 1).reshape(count, channels, height, width)


def smooth_noise(count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
    """Gaussian fields with spectrum 1/f^s, s from 0 to 3, with a soft or hard threshold at a random level.

    Natural images have s near 1. A hard threshold leaves two-colored blobs. Returns ``(count, *image_shape)``, in
    [0, 1], on the device of ``draws``.
    """
    channels, height, width = image_shape
    white = torch.randn(count, channels, height, width, generator=draws, device=draws.device)
    common = uniform(draws, count, 1, 1, 1)
    white = torch.lerp(white, white[:, :1], common)
    down = torch.fft.fftfreq(height, device=draws.device)[:, None]
    right = torch.fft.rfftfreq(width, device=draws.device)
    frequency = torch.hypot(down, right).clamp_min(1 / max(height, width))
    slope = uniform(draws, count, 1, 1, 1, high=3.0)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * frequency**-slope, s=(height, width))
    field = field - field.mean((2, 3), keepdim=True)
    field = field / field.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    steepness = 16 ** uniform(draws, count, 1, 1, 1)
    level = uniform(draws, count, 1, 1, 1, low=-1.2, high=1.2)
    share = (steepness * (field - level)).sigmoid()
    dark, light = palette(draws, count, 2, channels)[..., None, None].unbind(1)
    # Keep the two colors apart: otherwise half of the images would show hardly any contrast.
    dark = dark * uniform(draws, count, 1, 1, 1, high=0.7)
    light = 1 - (1 - light) * uniform(draws, count, 1, 1, 1, high=0.7)
    return torch.lerp(dark, light, share)


def uniform(draws: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform in ``[low, high)``."""
    return low + (high - low) * torch.rand(shape, generator=draws, device=draws.device)


def palette(draws: torch.Generator, count: int, colors: int, channels: int) -> Float[Tensor, "count colors channels"]:
    """Colors in [0, 1]; those of one image share a range of brightness, a gamma and a saturation.

    A third of the images are gray; with one channel, all are.
    """
    gray = uniform(draws, count, colors, 1).expand(-1, -1, channels)
    hue = uniform(draws, count, colors, channels)
    saturation = uniform(draws, count, 1, 1, low=-0.5).clamp_min(0).sqrt() if channels > 1 else torch.zeros_like(hue)
    gamma = 4 ** uniform(draws, count, 1, 1, low=-0.5, high=0.5)
    contrast = uniform(draws, count, 1, 1, low=0.6)
    darkest = (1 - contrast) * uniform(draws, count, 1, 1)
    return darkest + contrast * torch.lerp(gray, hue, saturation) ** gamma


def pixel_centers(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates x and y of all pixel centers, ``(height * width,)``, row by row; a pixel is 1 wide."""
    y, x = (torch.arange(side, device=device) + 0.5 for side in (height, width))
    return x.repeat(height), y.repeat_interleave(width)
