"""Augmentation, forward and backward to the pixels, including its random parameters.

``straightforward`` and ``warp_affine`` use our parameters and must give our images. ``kornia`` is
:class:`exml.augmentation.Kornia`. torchvision draws one set of parameters for the whole batch, so it does less.
"""

import math
from collections.abc import Callable

import kornia
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms import v2

from benchmarks.kernels.measure import PLACES, SHAPES, Place, assert_close, gradient_of, measure, on
from exml.augmentation import Augmentation, Chain, Kornia

SETTINGS = {
    "shift": Augmentation.mnist(),
    "shift+flip": Augmentation(shift=2, flip=0.5),
    "shift+rotation+flip+scale": Augmentation.cifar10(),
}
CASES = tuple(f"{name} {shape}" for name in SETTINGS for shape in SHAPES[name == "shift+flip" :])
SAME = ("ours", "straightforward", "warp_affine")
VERSIONS = (*SAME, "kornia", "torchvision_one_draw_a_batch")


def generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def matrices(setting: Augmentation, images: Tensor) -> Tensor:
    """The map from pixels of the result to those of the image, both from the center: ``(batch, 2, 3)``."""
    drawn = torch.rand(8, len(images), generator=generator(images.device), device=images.device)
    shift = (drawn[3:5] * (2 * setting.shift + 1)).floor() - setting.shift
    draws = drawn.to(images.dtype)
    angle = (2 * draws[0] - 1) * math.radians(setting.rotation)
    scale = 1 + setting.scale * (2 * draws[1] - 1)
    mirror = 1 - 2 * (drawn[2] < setting.flip).to(draws.dtype)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack((torch.stack((mirror * cos, -mirror * sin), 1), torch.stack((sin, cos), 1)), 1)
    return torch.cat((linear, -(linear * shift.T[:, None]).sum(2, keepdim=True)), 2)


def straightforward(setting: Augmentation, images: Tensor) -> Tensor:
    """Sample at a grid from a matrix product."""
    across, down, shift = matrices(setting, images).unbind(2)
    height, width = images.shape[2:]
    size = torch.tensor([width, height], device=images.device)
    theta = torch.stack((across * width / size, down * height / size, 2 * shift / size), 2)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode=setting.padding, align_corners=False)


def warp_affine(setting: Augmentation, images: Tensor) -> Tensor:
    """Kornia's function, which inverts the matrices that it is given, in pixels from the corner."""
    source = matrices(setting, images)
    height, width = images.shape[2:]
    middle = torch.tensor([width - 1, height - 1], device=images.device) / 2
    inverse = torch.linalg.inv(source[:, :, :2])
    shift = middle - (inverse @ (source[:, :, 2] + middle)[..., None])[..., 0]
    there = torch.cat((inverse, shift[..., None]), 2)
    return kornia.geometry.transform.warp_affine(images, there, (height, width), padding_mode=setting.padding)


def others(setting: Augmentation, images: Tensor, version: str) -> Callable[[Tensor], Tensor]:
    translate = (setting.shift / images.shape[3], setting.shift / images.shape[2])
    scale = (1 - setting.scale, 1 + setting.scale)
    if version == "kornia":
        flips = [Kornia("RandomHorizontalFlip", {"p": setting.flip})] * (setting.flip > 0)
        settings = {"degrees": setting.rotation, "translate": translate, "scale": scale, "p": 1.0}
        chain = Chain((*flips, Kornia("RandomAffine", {**settings, "padding_mode": setting.padding})))
        return lambda pixels: chain(pixels, generator(pixels.device))
    flips = [v2.RandomHorizontalFlip(setting.flip)] * (setting.flip > 0)
    affine = v2.RandomAffine(setting.rotation, translate, scale, interpolation=v2.InterpolationMode.BILINEAR, fill=None)
    return v2.Compose([*flips, affine])


def ready(setting: Augmentation, images: Tensor, place: Place, version: str) -> Callable[[Tensor], Tensor]:
    if version == "ours":
        apply, draws = place.ready(setting.apply), generator(images.device)
        # Drawn outside of the compiled function, which accepts no generators.
        return lambda pixels: apply(
            pixels, torch.rand(8, len(pixels), generator=draws.manual_seed(0), device=pixels.device)
        )
    if version in SAME:
        function = {"straightforward": straightforward, "warp_affine": warp_affine}[version]
        return lambda pixels: function(setting, pixels)
    return others(setting, images, version)


@on(PLACES, CASES, VERSIONS, everywhere=("ours",))
def test_augmentation(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    name, shape = case.split(" ")
    images = place.images(shape)
    weights = torch.randn_like(images)
    change = ready(SETTINGS[name], images, place, version)
    work = gradient_of(change, images, weights)
    changed, gradient = measure(benchmark, work, place, kernel="augmentation", case=case, version=version)
    assert changed.shape == gradient.shape == images.shape
    if version in SAME:
        exact = gradient_of(lambda pixels: straightforward(SETTINGS[name], pixels), images.double(), weights.double())
        assert_close((changed, gradient), exact(), place)
    else:
        least, greatest = images.aminmax()
        assert bool((changed >= least - 1e-4).all() and (changed <= greatest + 1e-4).all())  # mixtures of pixels
        assert not torch.equal(changed, images)
