"""The L² norm and the total variation of the pixels, forward and backward to them."""

import kornia
import torch
import torchmetrics.functional.image as torchmetrics
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import PLACES, SHAPES, Place, assert_close, gradient_of, measure, on
from exml.priors import L2Norm, TotalVariation

WEIGHT = 0.01
OURS_L2, OURS_TV = L2Norm(WEIGHT), TotalVariation(WEIGHT)


def dot(images: Tensor) -> Tensor:
    flat = images.flatten()
    return WEIGHT * flat.dot(flat) / len(images)


def differences(images: Tensor) -> Tensor:
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().sum()
    return WEIGHT * (down + (images[..., 1:] - images[..., :-1]).abs().sum()) / len(images)


def absolute_errors(images: Tensor) -> Tensor:
    """Differences and their absolute values in one operation."""
    down = torch.nn.functional.l1_loss(images[:, :, 1:], images[:, :, :-1], reduction="sum")
    right = torch.nn.functional.l1_loss(images[..., 1:], images[..., :-1], reduction="sum")
    return WEIGHT * (down + right) / len(images)


L2_NORM = {
    "ours": lambda images: OURS_L2(images, ()),
    "straightforward": lambda images: WEIGHT * (images.flatten(1) ** 2).sum(1).mean(),
    "vector_norm": lambda images: WEIGHT * torch.linalg.vector_norm(images, dim=(1, 2, 3)).square().mean(),
    "dot": dot,
}
TOTAL_VARIATION = {
    "ours": lambda images: OURS_TV(images, ()),
    "straightforward": differences,
    "absolute_errors": absolute_errors,
    "kornia": lambda images: WEIGHT * kornia.losses.total_variation(images).sum(1).mean(),
    "torchmetrics": lambda images: WEIGHT * torchmetrics.total_variation(images, "mean"),
}


@on(PLACES, SHAPES, tuple(L2_NORM))
def test_l2_norm(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    images = place.images(case)
    work = gradient_of(place.ready(L2_NORM[version]), images)
    result = measure(benchmark, work, place, kernel="l2 norm", case=case, version=version)
    exact = images.double()
    norms = exact.square().sum((1, 2, 3))
    assert_close(result, (WEIGHT * norms.mean(), 2 * WEIGHT * exact / len(exact)), place)


@on(PLACES, SHAPES, tuple(TOTAL_VARIATION))
def test_total_variation(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    images = place.images(case)
    work = gradient_of(place.ready(TOTAL_VARIATION[version]), images)
    result = measure(benchmark, work, place, kernel="total variation", case=case, version=version)
    assert_close(result, gradient_of(TOTAL_VARIATION["kornia"], images.double())(), place)
