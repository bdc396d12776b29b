"""Drawings that evolve towards what an expert knows, without a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from exml.augmentation import Augmentation
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples
from exml.core.serialization import OMIT_DEFAULT
from exml.core.shapes import Images, Labels, State
from exml.core.validators import in_range, one_of, positive_int
from exml.engine.reading import matched_temperature, read, reader_of
from exml.generators._common import check_size, class_turns
from exml.protocols import STANDALONE, GenerationContext

Genes: TypeAlias = Mapping[str, Tensor]
"""The parameters of drawings by name, the first dimension being that of the drawings."""

Curves: TypeAlias = Float[Tensor, "count strokes points 2"]
"""Points along the strokes of drawings, x and y in pixels."""

_STROKES, _DOTS = 4, 24
_MARGIN = 3.0  # the lead of the wanted class, in units of the common scale, from which it counts little more
_UNIT = 3.0  # of the common scale, in units of matched logits
_BATCH = 1_024


@component
@attrs.frozen
class EvolvedDrawings:
    r"""Drawings of strokes that evolve, class by class, towards what the expert recognizes; no gradient is needed.

    One Metropolis chain per drawing starts at the best of a pool of random drawings and changes a few parameters of
    its strokes in each step. The density of class c is

    .. math:: \log p(x) = \left(\log \sigma(m_c(x) - 3) + \beta \, z(x)\right) / \tau

    where m_c is the margin of the logit of c over those of the other classes, on a scale that is the same for all
    experts, and z is the typicality of :class:`exml.protocols.Reading`, standardized over the pool; it is 0 for an
    expert without a narrowing layer. Samples are balanced over the expert's classes, and have the class of their chain.

    Args:
        steps: of each chain; 0 makes random drawings, labeled by the expert.
        snapshots: how many states of a chain are kept, at equal distances; at most ``steps``.
        copies: of each state; all but the first are moved, turned and scaled a little.
        typicality: β >= 0.
        temperature: τ > 0.
        pool: random drawings to start from and to standardize with.
        polarity: of strokes: ``"light"`` on a dark ground, ``"dark"`` on a light one, or ``"any"``.
        filled: share in [0, 1] of the random drawings that are solid shapes, with strokes as outlines. Most of these
            are symmetric.

    >>> import exml, torch
    >>> from exml.generators import EvolvedDrawings
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> samples = EvolvedDrawings(steps=6)(exml.Expert(net, (3, 7), (1, 8, 8)), 8, 0)
    >>> samples.images.shape, samples.labels.bincount()[[3, 7]]
    (torch.Size([8, 1, 8, 8]), tensor([4, 4]))
    """

    steps: int = attrs.field(default=150, validator=in_range(0, integer=True))
    snapshots: int = attrs.field(default=3, validator=positive_int())
    copies: int = attrs.field(default=2, validator=positive_int())
    typicality: float = attrs.field(default=2.0, validator=in_range(0))
    temperature: float = attrs.field(default=0.3, validator=in_range(0, open_low=True))
    pool: int = attrs.field(default=4_000, validator=in_range(2, 2**20, integer=True))
    polarity: Literal["light", "dark", "any"] = attrs.field(default="light", validator=one_of("light", "dark", "any"))
    filled: float = attrs.field(default=0.0, validator=in_range(0, 1), metadata=OMIT_DEFAULT)
    uses_priors = False
    uses_real_data = False

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; raises :class:`exml.core.errors.BufferSizeError` if it is below 1."""
        check_size(size)
        draws = make_generator(expert.device, seed, "evolved-drawings")
        if not self.steps:
            found = self.random(size, expert.image_shape, draws)
            labels = expert.predicted_ids(found)
            return Samples.of(found, labels, task=expert.task, experience=context.experience)
        snapshots = min(self.snapshots, self.steps)
        chains = math.ceil(size / (snapshots * self.copies))
        turns = class_turns(chains, len(expert.classes), derive_seed(seed, "turns")).to(expert.device)
        kept = [self.steps * (place + 1) // snapshots for place in range(snapshots)]
        images: list[Images] = []
        for step, state in enumerate(self._evolve(expert, turns, draws, context.start), 1):
            if step in kept:
                images.append(state)
            context.journal.record(step, self.steps, dict)
        jitter = Augmentation(shift=max(1, min(expert.image_shape[1:]) // 12), rotation=12.0, scale=0.12)
        found = torch.cat(images)
        found = torch.cat([found, *(jitter(found, draws) for _ in range(self.copies - 1))])[:size]
        labels = expert.class_ids.to(expert.device)[turns.repeat(snapshots * self.copies)[:size]]
        return Samples.of(found.contiguous(), labels, task=expert.task, experience=context.experience)

    def random(self, count: int, image_shape: tuple[int, int, int], draws: torch.Generator) -> Images:
        """Random drawings like those of the pool, ``(count, *image_shape)``, on the device of ``draws``."""
        return render(random_genes(count, image_shape[0], draws, self.filled), image_shape, self.polarity)

    def _evolve(self, expert: Expert, turns: Labels, draws: torch.Generator, start: State | None) -> Iterator[Images]:
        """The state of all chains after each step; ``turns`` is the position of the class of each."""
        fitness, genes, fit = self._pool(expert, draws, start)
        rows = torch.empty_like(turns)
        for turn in turns.unique().tolist():
            own = (turns == turn).nonzero()[:, 0]
            best = fit[:, turn].topk(min(len(own), len(fit))).indices
            rows[own] = best[torch.arange(len(own), device=best.device) % len(best)]
        genes = {name: gene[rows] for name, gene in genes.items()}
        images = render(genes, expert.image_shape, self.polarity)
        value = fit[rows, turns]
        for _ in range(self.steps):
            tried = mutated(genes, draws)
            drawn = render(tried, expert.image_shape, self.polarity)
            new = fitness(drawn).gather(1, turns[:, None])[:, 0]
            chance = torch.rand(len(turns), generator=draws, device=draws.device).log()
            accepted = chance < (new - value) / self.temperature
            genes = {name: _where(accepted, tried[name], gene) for name, gene in genes.items()}
            images, value = _where(accepted, drawn, images), torch.where(accepted, new, value)
            yield images

    def _pool(
        self, expert: Expert, draws: torch.Generator, start: State | None
    ) -> tuple[Callable[[Images], Float[Tensor, "batch known"]], Genes, Float[Tensor, "pool known"]]:
        """The log-density of images for each class, random drawings, and the log-density of these."""
        reader = reader_of(expert, start)
        genes = random_genes(self.pool, expert.image_shape[0], draws, self.filled)
        reading = read(expert, reader, render(genes, expert.image_shape, self.polarity))
        own = reading.own_logits / reading.root_norm
        unit = matched_temperature(own, 0.5) / _UNIT
        q = reading.typicality
        center, spread = (0.0, 1.0) if q is None else (q.mean(), q.std().clamp_min(1e-6))

        def density(own: Tensor, q: Tensor | None) -> Tensor:
            best = own.topk(min(2, own.shape[1]), 1).values
            others = torch.where(own == best[:, :1], best[:, -1:], best[:, :1])
            margin = (own - others) / unit if own.shape[1] > 1 else torch.full_like(own, torch.inf)
            typical = 0.0 if q is None else self.typicality * ((q - center) / spread)[:, None]
            return logsigmoid(margin - _MARGIN) + typical

        def fitness(images: Images) -> Tensor:
            found = read(expert, reader, images)
            return density(found.own_logits / found.root_norm, found.typicality)

        return fitness, genes, density(own, q)


def random_genes(count: int, channels: int, draws: torch.Generator, filled: float = 0.0) -> Genes:
    """The parameters of random drawings, on the device of ``draws``; bolder and shaded ones evolve.

    A share of ``filled`` are solid shapes, most of them mirrored. Mirrored strokes evolve.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=draws, device=draws.device)

    none = torch.zeros(count, 1, dtype=torch.bool, device=draws.device)
    genes = {
        "strokes": 1 + (_STROKES * rand(1)).long(),
        "points": 2 * rand(_STROKES, 4, 2) - 1,
        "linked": rand(_STROKES) < 0.6,
        "bend": 1.5 * rand(_STROKES),
        "pen": 0.3 * rand(1),
        "gain": rand(1),
        "frame": rand(4),
        "ink": rand(_STROKES, channels),
        "vivid": (0.6 if channels == 1 else 1) * rand(1),
        "inverted": rand(1) < 0.5,
        "filled": none,
        "mirrored": none,
    }
    if filled:
        genes["filled"] = rand(1) < filled
        genes["mirrored"] = genes["filled"] & (rand(1) < 0.6)
    return genes


def mutated(genes: Genes, draws: torch.Generator) -> Genes:
    """Each drawing with a small random change of some of its parameters."""
    count, device = len(genes["pen"]), draws.device
    rows = torch.arange(count, device=device)

    def normal(like: Tensor, scale: float) -> Tensor:
        return scale * torch.randn(like.shape, generator=draws, device=device)

    def integer(most: int, *shape: int) -> Tensor:
        return torch.randint(most, (count, *shape), generator=draws, device=device)

    change, stroke = integer(12), integer(_STROKES) % genes["strokes"][:, 0]
    new = dict(genes)
    large = torch.where(integer(2) == 1, 0.3, 0.1).view(-1, 1, 1)
    moved = genes["points"].clone()
    moved[rows, stroke] += large * normal(moved[:, 0], 1.0)
    new["points"] = _where(change < 6, moved.clamp(-1.2, 1.2), genes["points"])
    limits = {"bend": 1.5, "pen": 1.0, "gain": 1.0, "frame": 1.0, "ink": 1.0, "vivid": 1.0}
    for turn, names in ((6, ("bend",)), (7, ("pen", "gain")), (8, ("frame",)), (9, ("ink", "vivid"))):
        for name in names:
            gene = genes[name]
            new[name] = _where(change == turn, (gene + normal(gene, 0.2)).clamp(0, limits[name]), gene)
    new["strokes"] = _where(change == 10, 1 + integer(_STROKES, 1), genes["strokes"])
    new["linked"] = _where(change == 10, integer(2, _STROKES) == 1, genes["linked"])
    new["mirrored"] = _where(change == 11, integer(4, 1) == 0, genes["mirrored"])
    new["inverted"] = _where(change == 11, integer(2, 1) == 1, genes["inverted"])
    return new


def render(genes: Genes, image_shape: tuple[int, int, int], polarity: str = "light") -> Images:
    """Drawings ``(count, *image_shape)``, in [0, 1]; each is a sum of Gaussian dots along Bézier curves."""
    rows = torch.arange(len(genes["pen"]), device=genes["pen"].device).split(_BATCH)
    parts = ({name: gene[part] for name, gene in genes.items()} for part in rows)
    return torch.cat([_render(part, image_shape, polarity) for part in parts])


def _render(genes: Genes, image_shape: tuple[int, int, int], polarity: str) -> Images:
    curves = curves_of(genes, image_shape)
    density = splat(dots_of(genes, curves, image_shape), *image_shape[1:])
    density = density + torch.where(genes["mirrored"].view(-1, 1, 1, 1), density.flip(3), 0)
    solid = genes["filled"][:, 0].nonzero()[:, 0]
    if len(solid):
        density[solid] += fill({name: gene[solid] for name, gene in genes.items()}, curves[solid], image_shape)
    image = 1 - torch.exp(-density)
    image = image / image.amax((1, 2, 3), keepdim=True).clamp_min(0.05)
    if polarity == "light":
        return image
    return torch.where((genes["inverted"] | (polarity == "dark")).view(-1, 1, 1, 1), 1 - image, image)


@attrs.frozen(eq=False)
class Dots:
    """Gaussian dots: drawings before they are rendered.

    Args:
        middles: ``(count, dots, 2)``, x and y in pixels.
        pen: ``(count, 1)``, the standard deviation in pixels.
        weights: ``(count, dots, channels)``.
    """

    middles: Float[Tensor, "count dots 2"]
    pen: Float[Tensor, "count 1"]
    weights: Float[Tensor, "count dots channels"]

    def double(self) -> Dots:
        """The same in float64."""
        return Dots(self.middles.double(), self.pen.double(), self.weights.double())


def dots_of(genes: Genes, curves: Curves, image_shape: tuple[int, int, int]) -> Dots:
    """Dots along the curves of drawings."""
    channels, pen = image_shape[0], _pen(genes, min(image_shape[1:]))
    middles, lengths = (curves[:, :, 1:] + curves[:, :, :-1]) / 2, curves.diff(dim=2).norm(dim=3)
    vivid = genes["vivid"][..., None]
    faded = vivid if channels > 1 else 0.8 * vivid * (vivid > 0.6)  # most gray drawings have one shade
    ink = 1 - faded * genes["ink"]
    amounts = (1 + 2 * genes["gain"])[..., None] * lengths * _shown(genes)[..., None] / pen[..., None]
    return Dots(middles.flatten(1, 2), pen, (amounts[..., None] * ink[:, :, None]).flatten(1, 2))


def fill(genes: Genes, curves: Curves, image_shape: tuple[int, int, int]) -> Images:
    """The ink inside each stroke, ``(count, channels, height, width)``.

    The winding number of an outline is a sum over segments, each of which covers all pixels of its rows to the right of
    it. So, like :func:`splat`, it is one product of matrices. Edges are as soft as those of the pen. The outline of a
    stroke that is not mirrored is closed by a straight line.
    """
    _, height, width = image_shape
    points, mirrored = outlines_of(genes, curves), genes["mirrored"].view(-1, 1, 1, 1)
    x, y = (torch.arange(side, device=points.device) + 0.5 for side in (width, height))
    steepness = 1.7 / _pen(genes, min(height, width)).clamp_min(0.5)[..., None, None]
    below = torch.sigmoid((y - points[..., 1, None]) * steepness)
    right = torch.sigmoid((x - (points[:, :, 1:, :1] + points[:, :, :-1, :1]) / 2) * steepness)
    right = torch.where(mirrored, right + right.flip(3) - 1, right)
    winding = (below[:, :, 1:] - below[:, :, :-1]).transpose(2, 3) @ right
    cover = winding.abs().clamp_max(1) * _shown(genes)[..., None, None]
    ink = (1 - 0.9 * genes["ink"]) * (1 + 2 * genes["gain"])[..., None]
    return torch.einsum("nshw,nsc->nchw", cover, ink)


def outlines_of(genes: Genes, curves: Curves) -> Float[Tensor, "count strokes outline 2"]:
    """The curves of drawings and the straight lines back; if mirrored, all points of the latter are the last one."""
    back = torch.linspace(0, 1, _DOTS + 1, device=curves.device)[1:, None]
    end = torch.where(genes["mirrored"].view(-1, 1, 1, 1), curves[:, :, -1:], curves[:, :, :1])
    return torch.cat([curves, torch.lerp(curves[:, :, -1:], end, back)], 2)


def curves_of(genes: Genes, image_shape: tuple[int, int, int]) -> Curves:
    """Points on the Bézier curves of drawings, x and y in pixels, stretched to a large part of the image."""
    _, height, width = image_shape
    side, control = min(height, width), genes["points"].clone()
    for stroke in range(1, _STROKES):
        linked = genes["linked"][:, stroke, None]
        control[:, stroke, 0] = torch.where(linked, control[:, stroke - 1, 3], control[:, stroke, 0])
    thirds = torch.linspace(0, 1, 4, device=control.device).view(4, 1)
    chord = torch.lerp(control[:, :, :1], control[:, :, 3:], thirds)
    points = _bernstein(control.device) @ torch.lerp(chord, control, genes["bend"][..., None, None])
    mask = _shown(genes)[:, :, None, None]
    low, high = points.where(mask, torch.inf).amin((1, 2)), points.where(mask, -torch.inf).amax((1, 2))
    frame = points.new_tensor([width, height])
    stretch = frame * (0.3 + 0.65 * genes["frame"][:, :2]) / (high - low).clamp_min(1e-3)
    stretch = torch.minimum(stretch.clamp_max(4 * side), 3 * stretch.flip(1))
    center = frame / 2 + (genes["frame"][:, 2:] - 0.5) * side / 5
    return (points - ((low + high) / 2)[:, None, None]) * stretch[:, None, None] + center[:, None, None]


def _pen(genes: Genes, side: int) -> Float[Tensor, "count 1"]:
    return 0.02 * side * (1 + 4 * genes["pen"])


def _shown(genes: Genes) -> Bool[Tensor, "count strokes"]:
    return torch.arange(_STROKES, device=genes["strokes"].device) < genes["strokes"]


def splat(dots: Dots, height: int, width: int) -> Images:
    """The sum of the dots at each pixel, ``(count, channels, height, width)``: one product of matrices per channel."""
    x, y = (torch.arange(side, device=dots.pen.device) + 0.5 for side in (width, height))
    across, down = (
        torch.exp(-0.5 * ((dots.middles[..., axis, None] - place) / dots.pen[..., None]).square())
        for axis, place in ((0, x), (1, y))
    )
    layers = [(down * weights[..., None]).transpose(1, 2) @ across for weights in dots.weights.unbind(2)]
    return torch.stack(layers, 1)


def _bernstein(device: torch.device) -> Float[Tensor, "dots 4"]:
    t = torch.linspace(0, 1, _DOTS + 1, device=device)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)
