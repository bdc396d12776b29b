"""L2Norm, GaussianBlur and TotalVariation against kornia and the formulas in float64."""

import attrs
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import SettingError, ShapeError
from exml.priors import GaussianBlur, L2Norm, TotalVariation
from exml.priors._blurring import _gaussian, _matrix, change_by_matrices, change_by_sums, gaussian


def images(batch=3, channels=2, height=7, width=9):
    return torch.randn(batch, channels, height, width, dtype=torch.float64)


def test_l2_norm_is_the_squared_norm_of_an_image():
    x = images()
    wanted = np.mean([np.linalg.norm(image.ravel()) ** 2 for image in x.numpy()])
    assert L2Norm(0.25)(x, ()).item() == pytest.approx(0.25 * wanted, rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (5, 0.7), (7, 2.0)])
@pytest.mark.parametrize(("padding", "border"), [("reflect", "reflect"), ("zeros", "constant")])
@pytest.mark.parametrize("squared", [True, False])
def test_blur_agrees_with_kornia(channels, size, sigma, padding, border, squared):
    x = images(channels=channels)
    lost = x - kornia.filters.gaussian_blur2d(x, (size, size), (sigma, sigma), border_type=border)
    norms = lost.flatten(1).norm(dim=1)
    wanted = 0.3 * (norms**2 if squared else norms).mean()
    prior = GaussianBlur(0.3, kernel_size=size, sigma=sigma, padding=padding, squared=squared)
    torch.testing.assert_close(prior(x, ()), wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("operator", ["fused", "kornia"])
@pytest.mark.parametrize(
    ("size", "padding", "height", "most"), [(5, "reflect", 2, 3), (3, "reflect", 1, 1), (21, "zeros", 2, 19)]
)
def test_a_kernel_too_large_for_the_image_is_an_error(operator, size, padding, height, most):
    x, prior = images(height=height), GaussianBlur(1.0, kernel_size=size, padding=padding, operator=operator)
    with pytest.raises(
        ShapeError, match=rf"{size}x{size}.*{height}x9 pixels; remedy: set kernel_size to at most {most}$"
    ):
        prior(x, ())
    assert attrs.evolve(prior, kernel_size=most)(x, ()).isfinite()


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_kornias_operator_and_ours_agree(padding):
    x = images().requires_grad_()
    ours = GaussianBlur(0.3, kernel_size=5, padding=padding)
    penalties = [attrs.evolve(ours, operator=operator)(x, ()) for operator in ("fused", "kornia")]
    torch.testing.assert_close(*penalties, rtol=1e-10, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(penalty, x) for penalty in penalties), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_blur_of_an_even_image_is_nothing_and_has_a_finite_slope(squared):
    x = torch.zeros(2, 1, 6, 6, requires_grad=True)
    penalty = GaussianBlur(1.0, squared=squared)(x, ())
    penalty.backward()
    assert penalty.item() == 0
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("change", [change_by_sums, change_by_matrices])
class TestBothWaysToBlur:
    @pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (7, 2.0)])
    @pytest.mark.parametrize("border", ["reflect", "constant"])
    def test_agree_with_kornia(self, change, size, sigma, border):
        x = images(height=5)
        wanted = kornia.filters.gaussian_blur2d(x, (size, size), (sigma, sigma), border_type=border) - x
        torch.testing.assert_close(change(x, gaussian(size, sigma), border == "reflect"), wanted, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("reflect", [True, False])
    def test_have_their_gradients_and_the_gradients_of_those(self, change, reflect):
        x = images(2, 1, 4, 5).requires_grad_()

        def penalty(x):
            return change(x, gaussian(5, 1.0), reflect).square().sum()

        assert torch.autograd.gradcheck(penalty, x)
        assert torch.autograd.gradgradcheck(penalty, x)

    def test_take_images_smaller_than_the_kernel_among_zeros(self, change):
        x = images(height=2, width=1)
        wanted = kornia.filters.gaussian_blur2d(x, (7, 7), (1.0, 1.0), border_type="constant") - x
        torch.testing.assert_close(change(x, gaussian(7, 1.0), False), wanted, rtol=0, atol=1e-12)

    def test_compile_without_a_break(self, change, compiled):
        in_one_piece = compiled(change)
        for height in (6, 8, 9):  # from the second on, a size is a symbol to the compiler
            x = images(height=height).requires_grad_()
            results = [f(x, (0.25, 0.5, 0.25), True) for f in (in_one_piece, change)]
            torch.testing.assert_close(*results)
            torch.testing.assert_close(*(torch.autograd.grad(result.square().sum(), x) for result in results))


def test_blur_makes_its_kernel_once():
    before = _gaussian.cache_info().misses, _matrix.cache_info().misses
    for _ in range(3):
        GaussianBlur(1.0, sigma=0.123)(images(), ())
        change_by_matrices(images(), gaussian(3, 0.123), True)
    assert _gaussian.cache_info().misses == before[0] + 1
    assert _matrix.cache_info().misses == before[1] + 2  # one for each side of the images


def test_matrices_made_in_inference_mode_still_take_gradients():
    with torch.inference_mode():
        change_by_matrices(images(), gaussian(3, 0.321), True)
    x = images().requires_grad_()
    change_by_matrices(x, gaussian(3, 0.321), True).square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_total_variation_agrees_with_kornia(channels):
    x = images(channels=channels)
    wanted = 0.1 * kornia.losses.total_variation(x).sum(1).mean()
    torch.testing.assert_close(TotalVariation(0.1)(x, ()), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "prior",
    [L2Norm(0.5), GaussianBlur(0.5), GaussianBlur(0.5, padding="zeros", squared=False), TotalVariation(0.5)],
    ids=repr,
)
class TestEveryPixelPrior:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_takes_half_precision(self, prior, dtype):
        x = images(64, height=32, width=36).to(dtype)  # the sum over all of them is more than float16 can hold
        penalty = prior(x, ())
        assert penalty.dtype == dtype
        torch.testing.assert_close(penalty.double(), prior(x.double(), ()), rtol=0.02, atol=0)

    def test_does_not_depend_on_the_order_of_memory(self, prior):
        x = images(channels=3)
        results = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            pixels = x.clone(memory_format=memory_format).requires_grad_()
            penalty = prior(pixels, ())
            results.append((penalty.detach(), *torch.autograd.grad(penalty, pixels)))
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)

    def test_compiles_without_a_break(self, prior, compiled):
        in_one_piece = compiled(prior)
        for height in (6, 8, 9):  # from the second on, a size is a symbol to the compiler
            pixels = images(height=height).requires_grad_()
            wanted, penalty = prior(pixels, ()), in_one_piece(pixels, ())
            torch.testing.assert_close(penalty, wanted)
            torch.testing.assert_close(torch.autograd.grad(penalty, pixels), torch.autograd.grad(wanted, pixels))

    def test_does_not_depend_on_the_size_of_the_batch(self, prior):
        x = images()
        torch.testing.assert_close(prior(x.repeat(4, 1, 1, 1), ()), prior(x, ()))

    def test_has_the_gradient_of_its_value(self, prior):
        assert torch.autograd.gradcheck(lambda x: prior(x, ()), images(2, 1, 5, 5).requires_grad_())

    def test_is_proportional_to_its_weight(self, prior):
        x = images()
        torch.testing.assert_close(attrs.evolve(prior, weight=3 * prior.weight)(x, ()), 3 * prior(x, ()))


@given(shift=st.floats(-3, 3), scale=st.floats(0.1, 3))
def test_blur_and_variation_ignore_brightness_and_grow_with_contrast(shift, scale):
    x = images()
    for prior, power in ((GaussianBlur(1.0), 2), (TotalVariation(1.0), 1)):
        torch.testing.assert_close(prior(scale * x + shift, ()), scale**power * prior(x, ()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L2Norm(-1.0),
        lambda: TotalVariation(float("nan")),
        lambda: GaussianBlur(1.0, kernel_size=4),
        lambda: GaussianBlur(1.0, kernel_size=-3),
        lambda: GaussianBlur(1.0, sigma=0.0),
        lambda: GaussianBlur(1.0, padding="wrap"),
    ],
    ids=["negative", "nan", "even", "below 1", "no width", "unknown padding"],
)
def test_settings_outside_their_range(make):
    with pytest.raises(SettingError):
        make()
