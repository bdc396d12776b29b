"""Auxiliary data: which images are drawn, and whose labels they bear."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import BufferSizeError, DataError, ShapeError
from exml.generators import AuxiliaryData, InMemory, PhotoPatches
from exml.protocols import GenerationContext
from exml.testing import check_generator
from tests.generators.helpers import expert, snapshot_of

IMAGES = torch.arange(20.0).view(20, 1, 1, 1).expand(-1, 1, 6, 6) / 20


class ByExperience:
    def __call__(self, experience, /):
        return torch.full((3, 1, 6, 6), float(experience)), None


def drawn(samples):
    return [round(20 * image.mean().item()) for image in samples.images]


def test_conforms():
    check_generator(AuxiliaryData(PhotoPatches(count=300)))


@given(st.integers(1, 20), st.integers(0, 10**6))
def test_draws_without_replacement_while_there_are_enough(size, seed):
    chosen = drawn(AuxiliaryData(InMemory(IMAGES))(expert(), size, seed))
    assert len(chosen) == size
    assert len(set(chosen)) == size


def test_draws_uniformly():
    source = AuxiliaryData(InMemory(IMAGES))
    counts = torch.bincount(torch.tensor([k for seed in range(400) for k in drawn(source(expert(), 5, seed))]))
    assert counts.shape == (20,)
    assert ((counts - 100).abs() < 5 * (400 * 0.25 * 0.75) ** 0.5).all()


def test_draws_with_replacement_from_a_smaller_source():
    chosen = drawn(AuxiliaryData(InMemory(IMAGES))(expert(), 400, 0))
    assert len(chosen) == 400
    assert set(chosen) == set(range(20))


def test_seeds():
    source = AuxiliaryData(InMemory(IMAGES))
    assert drawn(source(expert(), 10, 1)) == drawn(source(expert(), 10, 1))
    assert drawn(source(expert(), 10, 1)) != drawn(source(expert(), 10, 2))


def test_labels_are_the_experts_not_the_sources():
    some = expert(classes=(2, 5, 7), outputs=range(9))
    before = snapshot_of(some.module)
    source = InMemory(torch.rand(30, 1, 6, 6), torch.full((30,), 8))
    samples = AuxiliaryData(source)(some, 30, 0, GenerationContext(experience=2))
    assert snapshot_of(some.module) == before
    with torch.no_grad():
        scores = some.module.eval()((samples.images - 0.3) / 0.5)[:, [2, 5, 7]]
    assert samples.labels.tolist() == [(2, 5, 7)[k] for k in scores.argmax(1).tolist()]
    assert set(samples.tasks.tolist()) == {4}
    assert set(samples.experiences.tolist()) == {2}


def test_the_source_is_asked_for_the_experience():
    samples = AuxiliaryData(ByExperience())(expert(), 2, 0, GenerationContext(experience=3))
    assert (samples.images == 3).all()


def test_other_float_types_become_float32():
    assert AuxiliaryData(InMemory(IMAGES.double()))(expert(), 2, 0).images.dtype == torch.float32


def test_faults():
    with pytest.raises(BufferSizeError):
        AuxiliaryData(InMemory(IMAGES))(expert(), 0, 0)
    with pytest.raises(ShapeError, match=r"1x6x6.*got 1x5x6 from InMemory"):
        AuxiliaryData(InMemory(torch.zeros(3, 1, 5, 6)))(expert(), 2, 0)
    with pytest.raises(DataError, match="got none"):
        AuxiliaryData(InMemory(torch.zeros(0, 1, 6, 6)))(expert(), 2, 0)
