"""Augmentation against kornia's warp_affine, torchvision and NumPy; its parameters against scipy's distributions."""

import kornia
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from exml.augmentation import Augmentation
from exml.augmentation._transforms import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    inverse_affine,
    move,
    warp,
)
from exml.core.errors import SettingError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(batch, seed=0):
    draws = torch.rand(5, batch, dtype=torch.float64, generator=seeded(seed))
    return {
        "angle": draws[0] * 2 - 1,
        "scale": 0.7 + 0.6 * draws[1],
        "mirror": 1 - 2 * (draws[2] < 0.5).double(),
        "shift": 6 * draws[3:] - 3,
    }


def forward_matrices(height, width, angle, scale, mirror, shift):
    """The map of source to result pixels as a product of 3×3 matrices: T(centre + shift) R S M T(-centre)."""
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrices = []
    for a, s, m, (dx, dy) in zip(angle.tolist(), scale.tolist(), mirror.tolist(), shift.T.tolist(), strict=True):
        back = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]])
        mirror_and_scale = np.diag([m * s, s, 1])
        turn = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
        to = np.array([[1, 0, centre[0] + dx], [0, 1, centre[1] + dy], [0, 0, 1]])
        matrices.append((to @ turn @ mirror_and_scale @ back)[:2])
    return torch.tensor(np.stack(matrices))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 12)], ids=str)
def test_warp_agrees_with_kornia(padding, shape):
    x = torch.randn(6, 2, *shape, dtype=torch.float64)
    drawn = parameters(6)
    wanted = kornia.geometry.transform.warp_affine(x, forward_matrices(*shape, **drawn), shape, padding_mode=padding)
    torch.testing.assert_close(warp(x, inverse_affine(**drawn), padding), wanted, rtol=0, atol=1e-9)


def test_positive_angles_turn_counter_clockwise_as_kornia_does():
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    angle, one = torch.tensor([0.4], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    turned = warp(x, inverse_affine(angle, one, one, torch.zeros(2, 1, dtype=torch.float64)), "zeros")
    torch.testing.assert_close(turned, kornia.geometry.rotate(x, angle.rad2deg()), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("padding", "beyond"), [("zeros", "constant"), ("border", "edge"), ("reflection", "symmetric")]
)
@given(dx=st.integers(-15, 15), dy=st.integers(-15, 15), mirrored=st.booleans(), width=st.integers(6, 40))
def test_moves_and_whole_shifts_of_a_warp_are_exact(padding, beyond, dx, dy, mirrored, width):
    x = torch.rand(2, 3, 6, width)
    other = np.pad(
        tv.horizontal_flip(x).numpy() if mirrored else x.numpy(), [(0, 0), (0, 0), (15, 15), (15, 15)], beyond
    )
    wanted = torch.from_numpy(other[:, :, 15 - dy : 21 - dy, 15 - dx : 15 - dx + width].copy())
    moved = move(x, torch.tensor([mirrored, False]), torch.tensor([[dx, 0], [dy, 0]]), padding)
    assert torch.equal(moved[0], wanted[0])
    assert torch.equal(moved[1], x[1])
    drawn = torch.zeros(2), torch.ones(2), torch.tensor([-1.0 if mirrored else 1.0, 1.0])
    warped = warp(x, inverse_affine(*drawn, torch.tensor([[dx, 0.0], [dy, 0.0]])), padding)
    torch.testing.assert_close(warped, moved, rtol=0, atol=1e-4)


def test_certain_flip_is_torchvisions():
    x = torch.rand(3, 3, 8, 11)
    torch.testing.assert_close(Augmentation(flip=1.0)(x, seeded()), tv.horizontal_flip(x), rtol=0, atol=1e-5)


def test_flips_come_with_their_probability_and_change_nothing_else():
    x = torch.arange(6.0).expand(4000, 1, 2, 6)
    flipped = Augmentation(flip=0.3)(x, seeded())
    came = (flipped[:, 0, 0, 0] > 2.5).sum().item()
    torch.testing.assert_close(flipped, torch.where(flipped[:, :, :1, :1] > 2.5, x.flip(3), x), rtol=0, atol=1e-5)
    assert stats.binomtest(came, 4000, 0.3).pvalue > 1e-4


def impulse_positions(augmentation, batch):
    """Where the one bright pixel in the middle of 17×17 goes: ``(batch, 2)``, right and down."""
    x = torch.zeros(batch, 1, 17, 17)
    x[:, :, 8, 8] = 1
    moved = augmentation(x, seeded()).flatten(1)
    torch.testing.assert_close(moved.amax(1), torch.ones(batch), rtol=0, atol=1e-4)  # whole pixels: it stays sharp
    index = moved.argmax(1)
    return np.stack((index % 17 - 8, index // 17 - 8), 1)


def test_shifts_are_uniform_independent_and_in_range():
    positions = impulse_positions(Augmentation(shift=2, padding="zeros"), 5000)
    assert positions.min() == -2
    assert positions.max() == 2
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(positions.T + 2), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4  # uniform over all pairs: both directions are independent
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (positions[:-1, 0] + 2, positions[1:, 0] + 2), 1)
    assert stats.chi2_contingency(pairs).pvalue > 1e-4  # and so are neighbours in the batch


def recovered_linear_maps(augmentation, batch):
    """The 2×2 matrix that was applied to each image, read off two ramps (which bilinear interpolation keeps exact)."""
    ramp = torch.arange(21, dtype=torch.float64) - 10
    x = torch.stack((ramp.expand(21, 21), ramp[:, None].expand(21, 21))).expand(batch, 2, 21, 21)
    y = augmentation(x, seeded())
    return torch.stack((y[:, :, 10, 11] - y[:, :, 10, 10], y[:, :, 11, 10] - y[:, :, 10, 10]), 2).numpy()


def test_rotations_are_uniform_independent_and_in_range():
    maps = recovered_linear_maps(Augmentation(rotation=30.0), 2000)
    np.testing.assert_allclose(np.linalg.det(maps), 1, atol=1e-6)
    angles = np.degrees(np.arctan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 1e-4
    assert stats.spearmanr(angles[:-1], angles[1:]).pvalue > 1e-4


def test_scales_are_uniform_and_in_range():
    maps = recovered_linear_maps(Augmentation(scale=0.25), 2000)
    np.testing.assert_allclose(maps[:, 0, 1], 0, atol=1e-6)
    np.testing.assert_allclose(maps[:, 0, 0], maps[:, 1, 1], atol=1e-6)
    assert stats.kstest(1 / maps[:, 0, 0], stats.uniform(0.75, 0.5).cdf).pvalue > 1e-4


def test_parameters_of_one_image_are_independent():
    maps = recovered_linear_maps(Augmentation(rotation=30.0, scale=0.25), 2000)
    angles = np.arctan2(maps[:, 1, 0], maps[:, 0, 0])
    assert stats.spearmanr(angles, np.linalg.det(maps)).pvalue > 1e-4


# Kornia and torchvision do not clip small changes of medium colors.
FACTORS = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.2], dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "kornias"),
    [
        (adjust_brightness, kornia.enhance.adjust_brightness_accumulative),
        (adjust_contrast, kornia.enhance.adjust_contrast_with_mean_subtraction),
        (adjust_saturation, kornia.enhance.adjust_saturation_with_gray_subtraction),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_jitter_agrees_with_kornia_where_kornia_does_not_clip(channels, ours, kornias):
    x = 0.3 + 0.3 * torch.rand(5, channels, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x, FACTORS), kornias(x, FACTORS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("change", [adjust_brightness, adjust_contrast, adjust_saturation])
def test_jitter_is_linear_in_the_image_and_clips_nothing(change):
    x = 0.5 + 3 * torch.randn(5, 3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(change(7 * x, FACTORS), 7 * change(x, FACTORS))


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_jitter_factors_are_uniform_and_in_range(field):
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64).expand(2000, -1, -1, -1)
    y = Augmentation(**{field: 0.4})(x, seeded())
    zero = {
        "brightness": lambda image: torch.zeros_like(image),
        "contrast": lambda image: tv.rgb_to_grayscale(image).mean((2, 3), keepdim=True).expand_as(image),
        "saturation": lambda image: tv.rgb_to_grayscale(image, 3),
    }[field](x[:1])
    factors = ((y - zero) / (x - zero)).flatten(1).median(1).values
    # torchvision's luma has one digit more, hence the loose bound; the distribution is what is tested.
    assert factors.min() > 0.6 - 0.01
    assert factors.max() < 1.4 + 0.01
    assert stats.kstest(factors.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4


def test_jitter_factors_of_one_image_are_independent():
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64).expand(2000, -1, -1, -1)
    y = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4)(x, seeded())
    grey, wanted = (tv.rgb_to_grayscale(images).flatten(1) for images in (y, x))
    brightness = grey.mean(1) / wanted.mean(1)
    contrast = grey.std(1) / wanted.std(1) / brightness
    saturation = (y[:, 0] - y[:, 1]).flatten(1).std(1) / brightness / contrast
    for one, other in ((brightness, contrast), (brightness, saturation), (contrast, saturation)):
        assert stats.spearmanr(one, other).pvalue > 1e-4


EVERYTHING = Augmentation(2, 20.0, 0.5, 0.2, 0.3, 0.3, 0.3)
MOVES = [Augmentation(shift=3, flip=0.5, padding=padding) for padding in ("border", "zeros", "reflection")]
each_kind = pytest.mark.parametrize("augmentation", [EVERYTHING, *MOVES], ids=repr)


@each_kind
def test_is_a_function_of_its_draws_that_compiles_without_a_break(augmentation, compiled):
    in_one_piece = compiled(augmentation.apply)
    for height in (6, 8, 9):  # from the second on, a size is a symbol to the compiler
        x = torch.rand(5, 3, height, 7, requires_grad=True)
        wanted, images = augmentation(x, seeded()), in_one_piece(x, torch.rand(8, 5, generator=seeded()))
        torch.testing.assert_close(images, wanted)
        weights = torch.randn_like(images)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, weights) for y in (images, wanted)))


@each_kind
def test_does_not_depend_on_the_order_of_memory(augmentation):
    x, weights, results = torch.rand(5, 3, 8, 7), torch.randn(5, 3, 8, 7), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        pixels = x.clone(memory_format=memory_format).requires_grad_()
        images = augmentation(pixels, seeded())
        results.append((images.detach(), *torch.autograd.grad(images, pixels, weights)))
    torch.testing.assert_close(*results)


def test_same_generator_same_images():
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(EVERYTHING(x, seeded(1)), EVERYTHING(x, seeded(1)))
    assert not torch.equal(EVERYTHING(x, seeded(1)), EVERYTHING(x, seeded(2)))


def test_switching_one_change_off_leaves_the_others_as_they_are():
    x = torch.rand(5, 3, 8, 8)
    shifted = Augmentation(shift=3)(x, seeded())
    both = Augmentation(shift=3, brightness=0.5)(x, seeded())
    ratio = (both / shifted).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_gradients_reach_the_images(augmentation, seed):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augmentation(x, seeded(seed)), x)


def test_nothing_asked_is_the_identity():
    x = torch.rand(3, 1, 4, 4)
    assert Augmentation()(x, seeded()) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_type_of_the_images(dtype):
    x = torch.rand(3, 3, 8, 8).to(dtype)
    y = EVERYTHING(x, seeded())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), EVERYTHING(x.float(), seeded()), rtol=0.03, atol=0.03)


@each_kind
def test_reads_nothing_back_from_the_device(augmentation):
    """Fake tensors have shapes but no values, so reading a value fails."""
    with FakeTensorMode() as mode:
        x = mode.from_tensor(torch.rand(3, 3, 8, 8))
        assert augmentation(x, seeded()).shape == x.shape


def test_presets_are_what_the_paper_names():
    assert Augmentation.mnist().flip == 0
    for preset in (Augmentation.cifar10(), Augmentation.core50()):
        assert preset.flip == 0.5
        assert preset.rotation > 0
    for preset in (Augmentation.mnist(), Augmentation.cifar10(), Augmentation.core50()):
        assert preset.shift > 0


@pytest.mark.parametrize(
    "setting",
    [{"shift": 0.5}, {"shift": -1}, {"rotation": 181.0}, {"flip": 1.1}, {"scale": 1.0}, {"padding": "wrap"}],
    ids=str,
)
def test_settings_outside_their_range(setting):
    with pytest.raises(SettingError):
        Augmentation(**setting)
