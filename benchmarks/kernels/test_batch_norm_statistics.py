"""The prior on batch-norm statistics for the input of one layer, forward and backward to that input."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import PLACES, Place, assert_close, gradient_of, measure, on
from exml.priors import Activation, BatchNormStatistics

SHAPES = ("128x20x32x32", "128x160x4x4")  # the first and the last layers of SlimResNet18 at 32 pixels
# Activations are recorded outside of compiled code.
EAGER = tuple(place for place in PLACES if place.mode == "eager")
OURS = BatchNormStatistics(1.0)


def wanted(channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Running mean and variance, in float32 as networks keep them."""
    mean = torch.linspace(-1, 1, channels, device=device)
    return mean, mean.square() + 0.5


def ours(values: Tensor) -> Tensor:
    return OURS(values, [Activation("bn", values, *wanted(values.shape[1], values.device))])


def distance(mean: Tensor, var: Tensor, values: Tensor) -> Tensor:
    running_mean, running_var = wanted(values.shape[1], values.device)
    return (mean - running_mean).square().sum() + (var.sqrt() - running_var.sqrt()).square().sum()


def straightforward(values: Tensor) -> Tensor:
    return distance(values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0), values)


def var_mean(values: Tensor) -> Tensor:
    """Both in one operation; its gradient is made of several."""
    var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    return distance(mean, var, values)


def channels_first(values: Tensor) -> Tensor:
    """As in the code of DeepInversion: copied, so that each channel is contiguous."""
    rows = values.permute(1, 0, 2, 3).contiguous().view(values.shape[1], -1)
    return distance(values.mean((0, 2, 3)), rows.var(1, correction=0), values)


VERSIONS = {f.__name__: f for f in (ours, straightforward, var_mean, channels_first)}


@on(EAGER, SHAPES, tuple(VERSIONS), everywhere=("ours",))
def test_batch_norm_statistics(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    values = place.images(case)
    work = gradient_of(place.ready(VERSIONS[version]), values)
    result = measure(benchmark, work, place, kernel="batch-norm statistics", case=case, version=version)
    assert_close(result, gradient_of(straightforward, values.double())(), place)
