"""The L² norm of the pixels, forward and backward to them."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import PLACES, Place, assert_close, gradient_of, measure, on
from exml.priors import L2Norm

SHAPES = ("512x1x32x32", "128x3x32x32", "16x3x128x128")
WEIGHT = 0.01
OURS = L2Norm(WEIGHT)


def dot(images: Tensor) -> Tensor:
    flat = images.flatten()
    return WEIGHT * flat.dot(flat) / len(images)


VERSIONS = {
    "ours": lambda images: OURS(images, ()),
    "straightforward": lambda images: WEIGHT * (images.flatten(1) ** 2).sum(1).mean(),
    "vector_norm": lambda images: WEIGHT * torch.linalg.vector_norm(images, dim=(1, 2, 3)).square().mean(),
    "dot": dot,
}


@on(PLACES, SHAPES, tuple(VERSIONS))
def test_l2_norm(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    images = place.images(case)
    penalty = place.ready(VERSIONS[version])
    result = measure(benchmark, gradient_of(penalty, images), place, kernel="l2 norm", case=case, version=version)
    exact = images.double()
    norms = exact.square().sum((1, 2, 3))
    assert_close(result, (WEIGHT * norms.mean(), 2 * WEIGHT * exact / len(exact)), place)
