"""The blur prior, forward and backward to the pixels; ``ours`` and ``kornia`` are its two operators."""

import torch
import torchvision.transforms.v2.functional as tv
from kornia.filters import get_gaussian_kernel1d
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import conv2d, pad

from benchmarks.kernels.measure import PLACES, SHAPES, Place, assert_close, gradient_of, measure, on
from exml.priors import GaussianBlur
from exml.priors._blurring import change_by_matrices, gaussian

VERSIONS = ("ours", "straightforward", "separable", "shifted_sums", "matrices", "kornia", "torchvision")
WEIGHT = 0.01
OURS, KORNIA = GaussianBlur(WEIGHT), GaussianBlur(WEIGHT, operator="kornia")


class Versions:
    """The penalty by different blurs, with constant kernels."""

    def __init__(self, images: Tensor):
        self.channels = images.shape[1]
        self.kernel = get_gaussian_kernel1d(3, 1.0, dtype=images.dtype, device=images.device)[0]
        self.middle, self.side = float(self.kernel[1]), float(self.kernel[0])

    def _penalty(self, images: Tensor, blurred: Tensor) -> Tensor:
        return WEIGHT * (images - blurred).square().sum((1, 2, 3)).mean()

    def ours(self, images: Tensor) -> Tensor:
        """The default operator."""
        return OURS(images, ())

    def straightforward(self, images: Tensor) -> Tensor:
        """One depthwise convolution."""
        padded = pad(images, (1, 1, 1, 1), mode="reflect")
        kernel = torch.outer(self.kernel, self.kernel).expand(self.channels, 1, 3, 3)
        return self._penalty(images, conv2d(padded, kernel, groups=self.channels))

    def separable(self, images: Tensor) -> Tensor:
        """Two depthwise convolutions, along the rows and along the columns."""
        kernel, padded = self.kernel, pad(images, (1, 1, 1, 1), mode="reflect")
        across = conv2d(padded, kernel.expand(self.channels, 1, 1, 3), groups=self.channels)
        return self._penalty(
            images, conv2d(across, kernel[:, None].expand(self.channels, 1, 3, 1), groups=self.channels)
        )

    def matrices(self, images: Tensor) -> Tensor:
        """Two products with a banded matrix; ours on a GPU."""
        changed = change_by_matrices(images, gaussian(3, 1.0), True)
        return WEIGHT * changed.square().sum((1, 2, 3)).mean()

    def shifted_sums(self, images: Tensor) -> Tensor:
        """The sum of shifted copies of the padded image, with autograd's gradient."""
        padded = pad(images, (1, 1, 1, 1), mode="reflect")
        rows = self.side * (padded[:, :, :-2] + padded[:, :, 2:]) + self.middle * padded[:, :, 1:-1]
        return self._penalty(images, self.side * (rows[..., :-2] + rows[..., 2:]) + self.middle * rows[..., 1:-1])

    def kornia(self, images: Tensor) -> Tensor:
        """Makes its kernel in every call, which synchronizes with the device."""
        return KORNIA(images, ())

    def torchvision(self, images: Tensor) -> Tensor:
        """A depthwise convolution that makes its kernel in every call."""
        return self._penalty(images, tv.gaussian_blur(images, [3, 3], [1.0, 1.0]))


@on(PLACES, SHAPES, VERSIONS)
def test_blur(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    images = place.images(case)
    penalty = place.ready(getattr(Versions(images), version))
    result = measure(benchmark, gradient_of(penalty, images), place, kernel="blur", case=case, version=version)
    exact = images.double()
    assert_close(result, gradient_of(Versions(exact).kornia, exact)(), place)
