"""Rendering of drawings: strokes, compared with a sum over dots, and solid shapes, compared with one over segments."""

from itertools import pairwise

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import DEVICES, Place, assert_close, measure, on
from exml.generators.evolved import Curves, Dots, Genes, curves_of, dots_of, fill, outlines_of, random_genes, splat

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
    shape = channels, height, width
    dots = dots_of(genes, curves_of(genes, shape), shape)
    render = splat if version == "ours" else dot_by_dot
    found = measure(benchmark, lambda: render(dots, height, width), place, kernel="dots", case=case, version=version)
    assert_close([found], [dot_by_dot(dots.double(), height, width)], place)


def segment_by_segment(genes: Genes, curves: Curves, image_shape: tuple[int, int, int]) -> Tensor:
    """Each segment adds its rows to the pixels on its right, and those of its mirror image are subtracted."""
    _, height, width = image_shape
    points = outlines_of(genes, curves)
    x, y = (torch.arange(side, device=points.device) + 0.5 for side in (width, height))
    pen = (0.02 * min(height, width) * (1 + 4 * genes["pen"])).clamp_min(0.5)[..., None]
    winding = points.new_zeros(*points.shape[:2], height, width)
    for (left, top), (right, bottom) in pairwise(points.unbind(2)[place].unbind(2) for place in range(points.shape[2])):
        middle = (left + right)[..., None] / 2
        rows = torch.sigmoid(1.7 * (y - bottom[..., None]) / pen) - torch.sigmoid(1.7 * (y - top[..., None]) / pen)
        columns = torch.sigmoid(1.7 * (x - middle) / pen)
        mirror = torch.sigmoid(1.7 * (x - (width - middle)) / pen) * genes["mirrored"][..., None]
        winding += rows[..., None] * (columns - mirror)[..., None, :]
    shown = torch.arange(points.shape[1], device=points.device) < genes["strokes"]
    ink = shown[..., None] * (1 - 0.9 * genes["ink"]) * (1 + 2 * genes["gain"])[..., None]
    return (winding.abs().clamp_max(1)[:, :, None] * ink[..., None, None]).sum(1)


@on(DEVICES, CASES, ("ours", "straightforward"))
def test_solid_shapes(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    count, channels, height, width = map(int, case.split("x"))
    genes = random_genes(count, channels, torch.Generator(place.device).manual_seed(0), filled=1.0)
    shape = channels, height, width
    drawn = genes, curves_of(genes, shape), shape
    render = fill if version == "ours" else segment_by_segment
    found = measure(benchmark, lambda: render(*drawn), place, kernel="solid-shapes", case=case, version=version)
    assert_close([found], [segment_by_segment(*drawn).double()], place)
