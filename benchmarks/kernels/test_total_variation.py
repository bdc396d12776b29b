"""Total variation, forward and backward to the pixels."""

import kornia
import torch
import torchmetrics.functional.image as torchmetrics
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import PLACES, Place, assert_close, gradient_of, measure, on
from exml.priors import TotalVariation

SHAPES = ("512x1x32x32", "128x3x32x32", "16x3x128x128")
WEIGHT = 0.01
OURS = TotalVariation(WEIGHT)


def straightforward(images: Tensor) -> Tensor:
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().sum()
    return WEIGHT * (down + (images[..., 1:] - images[..., :-1]).abs().sum()) / len(images)


def absolute_errors(images: Tensor) -> Tensor:
    """Differences and their absolute values in one operation."""
    down = torch.nn.functional.l1_loss(images[:, :, 1:], images[:, :, :-1], reduction="sum")
    right = torch.nn.functional.l1_loss(images[..., 1:], images[..., :-1], reduction="sum")
    return WEIGHT * (down + right) / len(images)


VERSIONS = {
    "ours": lambda images: OURS(images, ()),
    "straightforward": straightforward,
    "absolute_errors": absolute_errors,
    "kornia": lambda images: WEIGHT * kornia.losses.total_variation(images).sum(1).mean(),
    "torchmetrics": lambda images: WEIGHT * torchmetrics.total_variation(images, "mean"),
}


@on(PLACES, SHAPES, tuple(VERSIONS))
def test_total_variation(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    images = place.images(case)
    penalty = place.ready(VERSIONS[version])
    work = gradient_of(penalty, images)
    result = measure(benchmark, work, place, kernel="total variation", case=case, version=version)
    assert_close(result, gradient_of(VERSIONS["kornia"], images.double())(), place)
