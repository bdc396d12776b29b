"""Procedural images: ranges, variety, colours, distances against NumPy, and who draws what."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exml.experts import Expert
from exml.generators import ProceduralImages
from exml.generators.procedural import _curves, _distance, dead_leaves, palette, smooth_noise, strokes
from exml.protocols import GenerationContext
from tests.generators.helpers import Ends, network

FAMILIES = {
    "strokes": lambda count, shape, draws: strokes(count, shape, draws, "light"),
    "strokes of any polarity": lambda count, shape, draws: strokes(count, shape, draws, "any"),
    "dead leaves": dead_leaves,
    "noise": smooth_noise,
}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def expert(shape):
    return Expert(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 2)), (3, 7), shape)


@families
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (2, 5, 12), (4, 12, 5), (1, 3, 3), (3, 1, 1)])
def test_every_shape_within_the_range_of_pixels(family, shape):
    images = family(40, shape, draws())
    assert images.shape == (40, *shape)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1


@families
def test_images_are_rich_and_no_two_are_alike(family):
    images = family(300, (1, 12, 12), draws()).flatten(1)
    assert len({tuple(image.tolist()) for image in images}) == 300
    spread = images.std(1)
    assert spread.median() > 0.08  # most have contrast
    assert spread.quantile(0.9) > 1.7 * spread.quantile(0.1)  # some far more than others
    means = images.mean(1)
    assert means.quantile(0.9) - means.quantile(0.1) > 0.15  # dark ones and light ones
    correlation = torch.corrcoef(images)
    assert correlation[~torch.eye(300, dtype=torch.bool)].abs().mean() < 0.45  # and not one motif


@families
def test_colour_images_are_grey_for_about_a_third(family):
    images = family(600, (3, 8, 8), draws())
    colourful = (images.amax(1) - images.amin(1)).amax((1, 2))
    if family is smooth_noise:
        assert (colourful > 0.1).float().mean() > 0.5
    else:
        assert 0.2 < (colourful < 1e-5).float().mean() < 0.47
        assert (colourful > 0.2).float().mean() > 0.3


@families
def test_same_generator_same_images(family):
    assert torch.equal(family(5, (1, 8, 8), draws(1)), family(5, (1, 8, 8), draws(1)))
    assert not torch.equal(family(5, (1, 8, 8), draws(1)), family(5, (1, 8, 8), draws(2)))


def test_polarity_of_strokes():
    """The border is mostly ground."""

    def ground_minus_rest(polarity):
        images = strokes(400, (1, 16, 16), draws(), polarity)
        border = torch.cat([images[..., 0], images[..., -1], images[:, :, 0], images[:, :, -1]], -1).median(-1).values
        return border[:, 0] - images.mean((1, 2, 3))

    assert (ground_minus_rest("light") < 0).float().mean() > 0.97
    assert (ground_minus_rest("dark") > 0).float().mean() > 0.97
    assert 0.4 < (ground_minus_rest("any") > 0).float().mean() < 0.6
    torch.testing.assert_close(
        strokes(9, (3, 8, 8), draws(), "dark"), 1 - strokes(9, (3, 8, 8), draws(), "light"), atol=1e-6, rtol=0
    )


def test_most_light_strokes_stand_on_black():
    images = strokes(400, (1, 16, 16), draws(), "light")
    assert 0.7 < (images.amin((1, 2, 3)) == 0).float().mean() < 0.9


@given(st.integers(0, 10**6))
def test_distance_to_a_polyline_is_the_least_over_many_of_its_points(seed):
    rng = np.random.default_rng(seed)
    points, pixels = rng.uniform(0, 8, (4, 2)), rng.uniform(0, 8, (10, 2))
    t = np.linspace(0, 1, 2001)[:, None]
    dense = np.concatenate([a + t * (b - a) for a, b in pairwise(points)])
    sampled = np.linalg.norm(pixels[:, None] - dense, axis=2).min(1)
    x, y = torch.tensor(pixels).T
    exact = _distance(torch.tensor(points)[None], x, y)[0].numpy()
    # Between two sampled points the curve may come nearer, by Pythagoras no more than this.
    gap = max(np.linalg.norm(b - a) for a, b in pairwise(points)) / 2000
    assert (exact <= sampled + 1e-9).all()
    assert (sampled**2 - exact**2 <= (gap / 2) ** 2 + 1e-9).all()


def test_curves_end_where_the_next_ones_begin_more_often_than_not():
    points = _curves(1000, draws())
    linked = (points[:, :-1, -1] - points[:, 1:, 0]).norm(dim=-1) < 1e-5
    assert 0.55 < linked.float().mean() < 0.65


def test_dead_leaves_have_small_and_large_areas_of_one_shade():
    """Neighbouring pixels mostly agree, but for the edges, at which they do not: many small steps, a few large ones."""
    images = dead_leaves(200, (1, 32, 32), draws())
    steps = images.diff(dim=3).abs().flatten()
    assert steps.median() < 0.03
    assert steps.quantile(0.97) > 0.2


def test_noise_reaches_from_white_to_smooth():
    """By the correlation of neighbours: none in white noise, nearly one in slow shades."""
    images = smooth_noise(400, (1, 16, 16), draws())
    left, right = images[..., :-1].flatten(1), images[..., 1:].flatten(1)
    left, right = left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True)
    correlation = (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1)).clamp_min(1e-9)
    assert correlation.quantile(0.1) < 0.3
    assert correlation.quantile(0.9) > 0.8


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_palette(count, colours, channels, seed):
    got = palette(draws(seed), count, colours, channels)
    assert got.shape == (count, colours, channels)
    assert got.min() >= 0
    assert got.max() <= 1


def test_kinds_take_turns():
    """Strokes alone have pixels that are exactly black, so their places show."""
    images = ProceduralImages(("noise", "strokes"))(expert((1, 8, 8)), 2000, 0).images
    black = (images == 0).any(3).any(2).any(1)
    assert not black[0::2].any()
    assert black[1::2].float().mean() > 0.5


@pytest.mark.parametrize(("kind", "family"), [("dead-leaves", dead_leaves), ("noise", smooth_noise)])
def test_one_kind_alone_looks_like_its_family(kind, family):
    """Not the same draws, but the same distribution of brightness and of steps between neighbours."""
    made = ProceduralImages((kind,))(expert((1, 12, 12)), 1000, 0).images
    wanted = family(1000, (1, 12, 12), draws(5))
    for statistic in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: x.diff(dim=3).abs().mean((1, 2, 3)),
    ):
        one, two = statistic(made).sort().values, statistic(wanted).sort().values
        assert (one - two).abs().mean() < 0.03


def test_labels_task_and_experience():
    some = Expert(network(4), (7, 2), (1, 6, 6), outputs=(0, 2, 7, None), task=3)
    samples = ProceduralImages()(some, 60, 0, GenerationContext(experience=5))
    with torch.no_grad():
        scores = some.module.eval()(samples.images)[:, [2, 1]]
    assert samples.labels.tolist() == [(7, 2)[k] for k in scores.argmax(1).tolist()]
    assert set(samples.tasks.tolist()) == {3}
    assert set(samples.experiences.tolist()) == {5}


def test_progress_reaches_the_size():
    ends = Ends()
    ProceduralImages(("noise",))(expert((1, 64, 64)), 70, 0, GenerationContext(journal=ends))
    assert ends.records == [(32, 70), (64, 70), (70, 70)]


def test_fewer_images_than_kinds():
    assert len(ProceduralImages()(expert((1, 8, 8)), 2, 0)) == 2


def test_full_contrast_stretches_each_image_by_itself_and_changes_nothing_else():
    plain = ProceduralImages(("strokes",))(expert((1, 16, 16)), 40, 3).images
    stretched = ProceduralImages(("strokes",), full_contrast=True)(expert((1, 16, 16)), 40, 3).images
    assert plain.amax((1, 2, 3)).min() < 0.9  # there is something to stretch
    for before, after in zip(plain.double().numpy(), stretched.numpy(), strict=True):
        np.testing.assert_allclose(after, before / before.max(), atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "means", "polarity", "kinds"),
    [
        (1, [0.13, 0.0], "light", ("strokes",)),
        (1, [0.9, 0.7, 0.2], "dark", ("strokes",)),
        (3, [0.9], "any", ("strokes", "dead-leaves", "noise")),
    ],
)
def test_drawings_that_resemble_what_the_experts_expect(channels, means, polarity, kinds):
    found = ProceduralImages.resembling(channels, means)
    assert (found.polarity, found.kinds, found.full_contrast) == (polarity, kinds, True)
