"""Mixture: shares, order, journals one inside the other."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import SettingError
from exml.core.samples import Samples
from exml.generators import DataImpression, GaussianNoise, Mixture, ModelInversion, ProceduralImages
from exml.protocols import GenerationContext
from tests.generators.helpers import Ends, KilledError, KillingJournal, expert


@attrs.frozen
class Flat:
    """Images of one value; keeps nothing and reports nothing."""

    value: float
    uses_priors: bool = False
    uses_real_data = False

    def __call__(self, expert, size, seed, context=None, /):
        return Samples.of(torch.full((size, *expert.image_shape), self.value), torch.full((size,), expert.classes[0]))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 60))
def test_shares_are_the_weights_to_within_one(weights, size):
    samples = Mixture(tuple(Flat(float(k)) for k in range(len(weights))), tuple(weights))(expert(), size, 0)
    assert len(samples) == size
    values = samples.images[:, 0, 0, 0].tolist()
    assert values == sorted(values)
    for k, weight in enumerate(weights):
        assert abs(values.count(k) - size * weight / sum(weights)) <= 1


def test_shares_are_equal_by_default():
    values = Mixture((Flat(0.0), Flat(1.0), Flat(2.0)))(expert(), 9, 0).images[:, 0, 0, 0]
    assert values.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_uses_priors_if_one_of_them_does():
    assert not Mixture((Flat(0.0), Flat(1.0))).uses_priors
    assert Mixture((Flat(0.0), Flat(1.0, uses_priors=True))).uses_priors


def test_equal_generators_make_different_images():
    images = Mixture((GaussianNoise(), GaussianNoise()))(expert(), 2, 0).images
    assert not torch.equal(images[0], images[1])


def test_soft_targets_are_kept_if_all_have_them():
    impression = DataImpression(iterations=1)
    assert Mixture((impression, impression))(expert(), 4, 0).targets.shape == (4, 8)
    assert Mixture((impression, Flat(0.0)))(expert(), 4, 0).targets is None


MIXTURE = Mixture(
    (
        Flat(0.0),
        ModelInversion(iterations=3, batch_size=2),
        Mixture((DataImpression(iterations=3, batch_size=2), ProceduralImages())),
    ),
    weights=(1, 2, 4),
)


def test_progress_rises_to_the_size():
    ends = Ends()
    MIXTURE(expert(), 14, 0, GenerationContext(journal=ends))
    done = [at for at, _ in ends.records]
    assert {total for _, total in ends.records} == {14}
    assert done == sorted(done)
    assert done[-1] == 14
    assert len(set(done)) > 6


def test_killed_anywhere_and_resumed_is_uninterrupted():
    some, everything = expert(), Ends()
    whole = MIXTURE(some, 14, 3, GenerationContext(journal=everything))
    for kill in range(1, len(everything.records) + 1):
        journal = KillingJournal(at=kill)
        with pytest.raises(KilledError):
            MIXTURE(some, 14, 3, GenerationContext(journal=journal))
        resumed = journal.resumed()
        again = MIXTURE(some, 14, 3, GenerationContext(journal=resumed))
        assert torch.equal(again.images, whole.images)
        assert torch.equal(again.labels, whole.labels)
        assert len(resumed.records) <= len(everything.records) - kill + 1  # cheap images may be made again


@pytest.mark.parametrize(
    ("generators", "weights"), [((), None), ((Flat(0.0),), (1, 2)), ((Flat(0.0),), (0,)), ((Flat(0.0),), ())]
)
def test_settings(generators, weights):
    with pytest.raises(SettingError, match="generators"):
        Mixture(generators, weights)
