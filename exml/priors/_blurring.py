"""A blurred image minus the image, in three implementations.

On a CPU a convolution of a single channel is slow, and its gradient is slower. There, :func:`change_by_sums` adds up
shifted copies of the images in place, one axis after the other. On other devices each of these sums would be a kernel
launch, so :func:`change_by_matrices` computes two matrix products instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import index
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from exml.core.shapes import Images

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _constant_result(function: FunctionT) -> FunctionT:
    """``torch.compiler.assume_constant_result`` without importing the compiler, which takes seconds."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    return function


@_constant_result  # the compiler would trace through the cache
def gaussian(size: int, sigma: float) -> tuple[float, ...]:
    """Kornia's one-dimensional kernel with ``size`` taps; their sum is 1."""
    return _gaussian(size, sigma)


@lru_cache(maxsize=32)
def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    from kornia.filters import get_gaussian_kernel1d  # kornia is slow to import

    return tuple(get_gaussian_kernel1d(size, sigma, dtype=torch.float64)[0].tolist())


def change_by_kornia(images: Images, size: int, sigma: float, reflect: bool) -> Images:
    """Kornia's own blur: a grouped convolution along one axis after the other."""
    from kornia.filters import gaussian_blur2d

    return gaussian_blur2d(images, size, (sigma, sigma), "reflect" if reflect else "constant") - images


def change_by_sums(images: Images, taps: tuple[float, ...], reflect: bool) -> Images:
    """Blurred float32 or float64 images minus the images; ``taps`` are those of a symmetric kernel of odd size."""
    return _Change.apply(images, taps, reflect, False)


def change_by_matrices(images: Images, taps: tuple[float, ...], reflect: bool) -> Images:
    """The same as ``T · x · Tᵀ - x``, with the kernel in the rows of T."""
    # With TF32, the error is about 1e-3 of the brightest pixel; a convolution rounds like that by default.
    # torch.compile may pass a symbol for a size; a matrix needs the number.
    columns, rows = (
        _constant(index(length), taps, reflect, images.dtype, images.device) for length in images.shape[2:]
    )
    return columns @ functional.linear(images, rows) - images


@_constant_result
def _constant(
    length: int, taps: tuple[float, ...], reflect: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "length length"]:
    return _matrix(length, taps, reflect, dtype, device)


@lru_cache(maxsize=32)
def _matrix(
    length: int, taps: tuple[float, ...], reflect: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "length length"]:
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return _blurred(torch.eye(length, dtype=torch.float64), 0, taps, reflect, False).to(device, dtype)


class _Change(torch.autograd.Function):
    """A linear map or its transpose. The gradient of one is the other; they differ only at reflected borders."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, taps: tuple[float, ...], reflect: bool, transposed: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.transpose = taps, reflect, not transposed
        across = _blurred(images, 3, taps, reflect, transposed)
        return _blurred(across, 2, taps, reflect, transposed).sub_(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Change.apply(*gradients, *ctx.transpose), None, None, None


def _blurred(images: Tensor, axis: int, taps: tuple[float, ...], reflect: bool, transposed: bool) -> Tensor:
    """Blurred along one axis: the tap of the pixel itself, then those of its neighbors on both sides, near to far."""
    length, half = images.shape[axis], len(taps) // 2
    blurred = images * taps[half]
    for step, tap in enumerate(taps[half + 1 :], start=1):
        rest = max(length - step, 0)
        for to, start in ((0, length - rest), (length - rest, 0)):
            blurred.narrow(axis, to, rest).add_(images.narrow(axis, start, rest), alpha=tap)
        if reflect:
            for border, inside in ((0, 1), (length - step, length - 1 - step)):
                to, start = (inside, border) if transposed else (border, inside)
                mirrored = images.narrow(axis, start, step)
                if step > 1:
                    mirrored = mirrored.flip(axis)
                blurred.narrow(axis, to, step).add_(mirrored, alpha=tap)
    return blurred
