"""White noise has the moments that it should, in the expert's units."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import BufferSizeError, SettingError
from exml.experts import Expert
from exml.generators import GaussianNoise
from exml.protocols import GenerationContext
from exml.testing import check_generator
from tests.generators.helpers import expert, network, snapshot_of


def test_conforms():
    check_generator(GaussianNoise(0.5))


def test_moments_in_pixel_units():
    some = expert(shape=(3, 6, 6), mean=(0.1, 0.5, 0.9), std=(0.1, 0.2, 0.4))
    images = GaussianNoise(2.0)(some, 3000, 0).images
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.tensor([0.1, 0.5, 0.9]), atol=0.02, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.tensor([0.2, 0.4, 0.8]), atol=0.02, rtol=0)


def test_labels_are_the_experts_and_so_are_task_and_experience():
    some = Expert(network(4), (7, 2), (1, 6, 6), outputs=(0, 2, 7, None), task=3)
    samples = GaussianNoise()(some, 50, 1, GenerationContext(experience=6))
    with torch.no_grad():
        scores = some.module.eval()(samples.images)[:, [2, 1]]
    assert samples.labels.tolist() == [(7, 2)[k] for k in scores.argmax(1).tolist()]
    assert set(samples.labels.tolist()) == {2, 7}
    assert set(samples.tasks.tolist()) == {3}
    assert set(samples.experiences.tolist()) == {6}


def test_labels_do_not_depend_on_the_other_images_and_leave_the_expert_alone():
    some = expert()
    before = snapshot_of(some.module)
    samples = GaussianNoise()(some, 1100, 0)
    assert snapshot_of(some.module) == before
    some.module.eval()
    with torch.no_grad():
        assert torch.equal(some.labels(samples.images), samples.labels)


@given(st.integers(max_value=0))
def test_nothing_to_make_is_an_error(size):
    with pytest.raises(BufferSizeError, match=f"got {size}"):
        GaussianNoise()(expert(), size, 0)


@pytest.mark.parametrize("std", [-1, float("nan"), "1"])
def test_settings(std):
    with pytest.raises(SettingError):
        GaussianNoise(std)
