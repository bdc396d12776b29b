"""Rendering of drawings as Gaussian dots, compared with a sum over the dots."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import DEVICES, Place, assert_close, measure, on
from exml.generators.evolved import Dots, dots_of, random_genes, splat

CASES = ("256x1x28x28", "64x3x32x32")


def dot_by_dot(dots: Dots, height: int, width: int) -> Tensor:
    """The formula of each pixel, one dot after the other."""
    x, y = (torch.arange(side, device=dots.weights.device) + 0.5 for side in (width, height))
    density = dots.weights.new_zeros(*dots.weights.shape[::2], height, width)
    for dot in range(dots.weights.shape[1]):
        right, down = dots.middles[:, dot].unbind(1)
        squares = (x - right[:, None]).square()[:, None] + (y - down[:, None]).square()[:, :, None]
        bell = torch.exp(-squares / (2 * dots.pen.square()[..., None]))
        density += dots.weights[:, dot, :, None, None] * bell[:, None]
    return density


@on(DEVICES, CASES, ("ours", "straightforward"))
def test_dots(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    count, channels, height, width = map(int, case.split("x"))
    genes = random_genes(count, channels, torch.Generator(place.device).manual_seed(0))
    dots = dots_of(genes, (channels, height, width))
    render = splat if version == "ours" else dot_by_dot
    found = measure(benchmark, lambda: render(dots, height, width), place, kernel="dots", case=case, version=version)
    assert_close([found], [dot_by_dot(dots.double(), height, width)], place)
