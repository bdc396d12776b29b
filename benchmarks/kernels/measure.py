"""The measurement of a kernel in a *place*: a device, a type, a memory format, and eager or compiled.

``EXML_BENCHMARK_COMPILE=1`` compiles on a CPU too, which takes minutes.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Result = TypeVar("Result")
CUDA = torch.cuda.is_available()
ROUNDS, WARM_UP = 9, 2
SHAPES = ("512x1x32x32", "128x3x32x32", "16x3x128x128")
TOLERANCES = {torch.float32: {"rtol": 1e-3, "atol": 3e-4}, torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2}}


@attrs.frozen
class Place:
    """Where and how a kernel runs."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    mode: str = "eager"

    def __str__(self) -> str:
        return "-".join((self.device, _name(self.dtype), _name(self.memory_format), self.mode))

    def images(self, shape: str) -> Tensor:
        """Noise of a shape such as ``"128x3x32x32"``."""
        sizes = tuple(map(int, shape.split("x")))
        images = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
        return images.to(self.device, self.dtype, memory_format=self.memory_format)

    def ready(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function itself, or compiled in one piece."""
        if self.mode == "eager":
            return function
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)


def _places() -> Iterable[Place]:
    last = torch.channels_last
    yield from (Place(), Place(memory_format=last))
    if os.environ.get("EXML_BENCHMARK_COMPILE") == "1":
        yield Place(mode="compiled")
    if CUDA:
        for dtype, memory_format in itertools.product(TOLERANCES, (torch.contiguous_format, last)):
            yield Place("cuda", dtype, memory_format)
        yield from (Place("cuda", mode="compiled"), Place("cuda", torch.bfloat16, last, "compiled"))


PLACES = tuple(_places())
DEVICES = tuple(place for place in PLACES if place in (Place(), Place("cuda")))


def on(
    places: Iterable[Place],
    cases: Sequence[str],
    versions: Sequence[str],
    *,
    everywhere: Sequence[str] = ("ours", "straightforward"),
) -> pytest.MarkDecorator:
    """Every version of every case in every place where it is supported.

    Only ours is compiled, and only versions ``everywhere`` run in half precision. With one channel, both memory formats
    are the same.
    """
    chosen = [
        pytest.param(place, case, version, id=f"{case}-{version}-{place}")
        for place, case, version in itertools.product(places, cases, versions)
        if place.mode == "eager" or version == "ours"
        if place.dtype != torch.bfloat16 or version in everywhere
        if place.memory_format == torch.contiguous_format or "x1x" not in case
    ]
    return pytest.mark.parametrize(("place", "case", "version"), chosen)


def measure(
    benchmark: BenchmarkFixture, work: Callable[[], Result], place: Place, *, kernel: str, case: str, version: str
) -> Result:
    """Time the work after a warm-up, synchronized with the device, and return its result."""

    def timed() -> Result:
        result = work()
        if place.device == "cuda":
            torch.cuda.synchronize()
        return result

    benchmark.group = f"{kernel} {case} {place}"
    benchmark.extra_info.update(
        kernel=kernel,
        case=case,
        version=version,
        device=place.device,
        dtype=_name(place.dtype),
        memory_format=_name(place.memory_format),
        mode=place.mode,
    )
    result = benchmark.pedantic(timed, rounds=ROUNDS, warmup_rounds=WARM_UP)
    benchmark.extra_info["aten_ops"] = _count(work) if place.mode == "eager" else None
    benchmark.extra_info["launches"] = _launches(timed) if place.device == "cuda" else None
    benchmark.extra_info["peak_bytes"] = _peak(timed) if place.device == "cuda" else None
    return result


def gradient_of(
    function: Callable[[Tensor], Tensor], images: Tensor, weights: Tensor | None = None
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Forward and backward to the images: the value and its gradient, of its product with ``weights`` if given."""
    pixels = images.detach().requires_grad_()

    def work() -> tuple[Tensor, Tensor]:
        value = function(pixels)
        (gradient,) = torch.autograd.grad(value, pixels, weights)
        return value.detach(), gradient

    return work


def assert_close(results: Sequence[Tensor], wanted: Sequence[Tensor], place: Place) -> None:
    """Compare with results in float64, in units of their greatest value, to the tolerance of the place."""
    for result, exact in zip(results, wanted, strict=True):
        scale = exact.abs().max()
        torch.testing.assert_close(result.double() / scale, exact / scale, **TOLERANCES[place.dtype])


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _count(work: Callable[[], Any]) -> int:
    """ATen operations, including the backward pass and views."""
    with _Counter() as counter:
        work()
    return counter.count


def _launches(work: Callable[[], Any]) -> int:
    """Kernels, copies and fills on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events() or ())


def _peak(work: Callable[[], Any]) -> int:
    """Bytes allocated in addition to those before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def _name(setting: torch.dtype | torch.memory_format) -> str:
    return str(setting).removeprefix("torch.").removesuffix("_format")
