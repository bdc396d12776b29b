"""The time of a prior, an augmentation or a generator, compared with the built-in ones and the bare step."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeAlias

import attrs
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import timer

from exml.augmentation import Augmentation, Kornia
from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.registry import misfit
from exml.core.samples import Samples
from exml.core.shapes import Images
from exml.engine import frozen
from exml.experts import untrained_expert
from exml.generators import DataImpression, GaussianNoise, ModelInversion, ProceduralImages
from exml.models import ConvNet
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, TotalVariation, record_activations
from exml.testing.component import requirement, success

Work: TypeAlias = Callable[[], Any]

BUILT_IN: Mapping[str, tuple[Any, ...]] = {
    "prior": (L2Norm(1e-3), TotalVariation(1e-3), GaussianBlur(1e-3), BatchNormStatistics(1.0)),
    "augmentation": (
        Augmentation.mnist(),
        Augmentation.cifar10(),
        Kornia("RandomAffine", {"degrees": 15.0, "p": 1.0}),
    ),
    "generator": (
        GaussianNoise(),
        ProceduralImages(),
        ModelInversion(iterations=10),
        DataImpression(iterations=10),
    ),
}
"""The parts that :func:`benchmark` compares a part with, by role."""


@attrs.frozen
class BenchmarkRow:
    """The time of one part.

    Args:
        part: its class, and the settings that are not the defaults.
        milliseconds: median over the rounds; on a CPU, of processor time.
        quartiles: the first and the third.
        ratio: to the bare step of the same round, the median.
    """

    part: str
    milliseconds: float
    quartiles: tuple[float, float]
    ratio: float


@attrs.frozen
class Benchmark:
    """What :func:`benchmark` returns; it prints as a table.

    Args:
        step: what was timed.
        rounds: number of measurements of each part.
        rows: the bare step first, then the part, then the built-in ones.
    """

    step: str
    rounds: int
    rows: tuple[BenchmarkRow, ...]

    def __str__(self) -> str:
        """The table."""
        wide = max(len(row.part) for row in self.rows)
        lines = [f"{row.part:{wide}} {row.milliseconds:9.2f} {row.ratio:9.2f}" for row in self.rows]
        return "\n".join([f"{self.step}, median of {self.rounds}", f"{'':{wide}} {'ms':>9} {'× bare':>9}", *lines])


def benchmark(
    part: Any,
    *,
    expert: Expert | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    rounds: int = 9,
) -> Benchmark:
    """Time a prior, an augmentation or a generator of your own, all built-in ones and the bare step.

    For a prior or an augmentation, the step is one step of an inversion: the forward pass of the expert, the
    cross-entropy, and the backward pass to the pixels, with the part. The bare step is the same without a part. For a
    generator, it is the generation of ``batch_size`` images, and the bare step is one forward pass over as many images.
    All parts take turns in every round, so that other load on the machine affects them alike. On a CPU, times are
    processor times, of all threads together. The steps run eagerly.

    After the timing, the results are checked on the device: the gradient of a step with a prior is compared with that
    in float64, an augmentation must give the same finite images for the same generator, and a generator the same
    samples for the same seed.

    Args:
        part: an instance; run its suite, such as :func:`check_prior`, first.
        expert: to run; by default an untrained :class:`exml.models.ConvNet` for images 3x32x32. It is not changed.
        batch_size: images per step, at least 2.
        device: as torch names it.
        rounds: measurements of each part, at least 2.

    Raises:
        SettingError: the part is no prior, augmentation or generator.
        AssertionError: the part raises an error, or a result is wrong; the message has the remedy.

    >>> from exml.priors import TotalVariation
    >>> from exml.testing import benchmark, tiny_expert
    >>> found = benchmark(TotalVariation(0.1), expert=tiny_expert(), batch_size=4, rounds=2)
    >>> [row.part for row in found.rows[:2]]
    ['bare step', 'TotalVariation(weight=0.1)']
    """
    role = next((role for role in BUILT_IN if misfit(part, role) is None), None)
    if role is None:
        remedy = "pass an instance of one of these families"
        expected = f"a part of the families {', '.join(BUILT_IN)}"
        raise SettingError(expected=expected, got=type(part).__name__, remedy=remedy)
    expert = _ready(expert, device)
    parts = (part, *(other for other in BUILT_IN[role] if other != part))
    images = torch.randn(batch_size, *expert.image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    if role == "generator":
        pixels = expert.denormalize(images)
        works: list[Work] = [torch.no_grad()(lambda: expert.logits(pixels))]
        works += [_generation(one, expert, batch_size) for one in parts]
        step = f"{batch_size} images"
    else:
        works = [_step(None, role, expert, images), *(_step(one, role, expert, images) for one in parts)]
        step = f"step of {'x'.join(map(str, images.shape))}"
    with frozen(expert.module):
        remedy = f"pass exml.testing.check_{role}, which names the cause"
        with success(part, f"run on images {'x'.join(map(str, images.shape))}", remedy):
            works[1]()
        times = _times(works, rounds, torch.device(device))
        _CHECKS[role](part, expert, images)
    rows = [_row(name, each, times[0]) for name, each in zip(("bare step", *map(_shown, parts)), times, strict=True)]
    return Benchmark(f"{step} on {torch.device(device)}", rounds, tuple(rows))


def _shown(part: Any) -> str:
    """Without the settings that have their default."""
    given = [
        f"{field.name}={getattr(part, field.name)!r}"
        for field in attrs.fields(type(part))
        if field.default is attrs.NOTHING or getattr(part, field.name) != field.default
    ]
    return f"{type(part).__name__}({', '.join(given)})"


def _row(name: str, seconds: list[float], bare: list[float]) -> BenchmarkRow:
    first, median, third = (1e3 * each for each in statistics.quantiles(seconds, n=4, method="inclusive"))
    ratio = statistics.median(own / other for own, other in zip(seconds, bare, strict=True))
    return BenchmarkRow(name, median, (first, third), ratio)


def _ready(expert: Expert | None, device: torch.device | str) -> Expert:
    """A copy of the expert on the device."""
    if expert is None:
        samples = Samples.of(torch.zeros(10, 3, 32, 32), torch.arange(10))
        expert = untrained_expert(ConvNet(channels=3, classes=10, image_size=32), samples)
    return attrs.evolve(expert, module=copy.deepcopy(expert.module)).to(device)


def _times(works: list[Work], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of every work in every round, each right after a run that is not timed, which heats the caches."""
    clock = time.process_time if device.type == "cpu" else timer  # the latter synchronizes with an accelerator

    def seconds(work: Work) -> float:
        work()
        begin = clock()
        work()
        return clock() - begin

    measured = [[seconds(work) for work in works] for _ in range(rounds)]
    return [list(each) for each in zip(*measured, strict=True)]


def _step(part: Any, role: str, expert: Expert, images: Images) -> Callable[[], Tensor]:
    """One step of an inversion, which returns the gradient to the pixels."""
    pixels = images.detach().requires_grad_()
    draws, labels = torch.Generator(images.device), torch.zeros(len(images), dtype=torch.long, device=images.device)
    reads = role == "prior" and part is not None and part.reads_activations

    def work() -> Tensor:
        seen = part(pixels, draws.manual_seed(0)) if part is not None and role == "augmentation" else pixels
        with record_activations(expert.module) if reads else nullcontext(()) as recorded:
            loss = cross_entropy(expert.module(seen), labels)
            if part is not None and role == "prior":
                loss = loss + part(seen, tuple(recorded))
        (gradient,) = torch.autograd.grad(loss, pixels)
        return gradient

    return work


def _generation(generator: Any, expert: Expert, size: int) -> Callable[[], Samples]:
    return lambda: generator(expert, size, 0)


def _check_prior(prior: Any, expert: Expert, images: Images) -> None:
    found = _step(prior, "prior", expert, images)().cpu().double()
    exact = attrs.evolve(expert, module=copy.deepcopy(expert.module).cpu().double())
    remedy = "create tensors on the device and in the type of the images"
    with success(prior, "support float64 images", remedy):
        wanted = _step(prior, "prior", exact, images.cpu().double())()
    off = float((found - wanted).abs().max() / wanted.abs().max())
    requirement(prior)(off < 1e-2, "have the gradient of float64", remedy, f"a relative difference of {off:.2g}")


def _check_augmentation(augmentation: Any, expert: Expert, images: Images) -> None:
    one, two = (augmentation(images, torch.Generator(images.device).manual_seed(0)) for _ in range(2))
    sound = torch.equal(one, two) and bool(one.isfinite().all()) and one.device == images.device
    remedy = "draw from the given generator only, on the device of the images"
    requirement(augmentation)(sound, "give the same finite images for the same generator", remedy)


def _check_generator(generator: Any, expert: Expert, images: Images) -> None:
    one, two = (generator(expert, len(images), 0) for _ in range(2))
    close = one.images.shape == images.shape and torch.allclose(one.images, two.images, atol=1e-3)
    sound = close and bool(one.images.isfinite().all()) and one.images.device == images.device
    remedy = "draw from make_generator(expert.device, seed, ...), and return images on the expert's device"
    requirement(generator)(sound, "make the same finite images for the same seed", remedy)


_CHECKS = {"prior": _check_prior, "augmentation": _check_augmentation, "generator": _check_generator}
