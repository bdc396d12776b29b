"""Generators that draw images: white noise, auxiliary data and replay."""

from collections import Counter

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import DataError, ExmlWarning, ShapeError
from exml.experts import Expert
from exml.generators import AuxiliaryData, GaussianNoise, InMemory, Replay
from exml.protocols import GenerationContext
from tests.generators.helpers import expert, network, snapshot_of

HUNDREDTHS = torch.arange(100.0).view(-1, 1, 1, 1).expand(-1, 1, 6, 6) / 100
"""Image k is filled with k / 100."""


def drawn(samples):
    return [round(100 * image.mean().item()) for image in samples.images]


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
        assert torch.equal(some.predicted_ids(samples.images), samples.labels)


class ByExperience:
    def __call__(self, experience, /):
        return torch.full((3, 1, 6, 6), experience / 4), None


@given(st.integers(1, 20), st.integers(0, 10**6))
def test_draws_without_replacement_while_there_are_enough(size, seed):
    chosen = drawn(AuxiliaryData(InMemory(HUNDREDTHS[:20]))(expert(), size, seed))
    assert len(chosen) == size
    assert len(set(chosen)) == size


def test_draws_uniformly():
    source = AuxiliaryData(InMemory(HUNDREDTHS[:20]))
    counts = torch.bincount(torch.tensor([k for seed in range(400) for k in drawn(source(expert(), 5, seed))]))
    assert counts.shape == (20,)
    assert ((counts - 100).abs() < 5 * (400 * 0.25 * 0.75) ** 0.5).all()


def test_draws_with_replacement_from_a_smaller_source():
    chosen = drawn(AuxiliaryData(InMemory(HUNDREDTHS[:20]))(expert(), 400, 0))
    assert len(chosen) == 400
    assert set(chosen) == set(range(20))


def test_the_seed_decides_which_auxiliary_images_are_drawn():
    source = AuxiliaryData(InMemory(HUNDREDTHS[:20]))
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


def test_the_source_receives_the_experience():
    samples = AuxiliaryData(ByExperience())(expert(), 2, 0, GenerationContext(experience=3))
    assert (samples.images == 0.75).all()


def test_other_float_types_become_float32():
    assert AuxiliaryData(InMemory(HUNDREDTHS[:20].double()))(expert(), 2, 0).images.dtype == torch.float32


def test_faults_of_auxiliary_data():
    with pytest.raises(ShapeError, match=r"1x6x6.*got 1x5x6 from InMemory"):
        AuxiliaryData(InMemory(torch.zeros(3, 1, 5, 6)))(expert(), 2, 0)
    with pytest.raises(DataError, match="got none"):
        AuxiliaryData(InMemory(torch.zeros(0, 1, 6, 6)))(expert(), 2, 0)


@pytest.mark.parametrize("kind", [AuxiliaryData, Replay])
@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        (lambda images: 255 * images, DataError, r"values from 0 to 2\d\d.*by 255"),
        (lambda images: images / 0, DataError, "values from nan to nan"),
        (lambda images: images.permute(0, 2, 3, 1), ShapeError, r"got 6x6x1.*permute\(0, 3, 1, 2\)"),
        (lambda images: 4 * images - 2, ExmlWarning, "values from -2 to"),
    ],
)
def test_images_that_are_no_pixels(kind, change, error, expected):
    images = change(HUNDREDTHS)
    with pytest.raises(error, match=expected):
        kind(InMemory(images, torch.full((len(images),), 5)))(expert(), 3, 0)


def test_integers_from_any_source_are_no_pixels(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    class Integers:
        uses_real_data = False

        def __call__(self, experience, /):
            return torch.zeros(3, 1, 6, 6, dtype=torch.long), None

    with pytest.raises(ShapeError, match="floating or uint8 images"):
        AuxiliaryData(Integers())(expert(), 3, 0)


def source(labels):
    return InMemory(HUNDREDTHS[: len(labels)], torch.tensor(labels))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 99))
def test_balanced_distinct_and_true(labels, size, seed):
    known = [label for label in labels if label in (2, 5, 7)]
    if not known:
        with pytest.raises(DataError):
            Replay(source(labels))(expert(classes=(2, 5, 7)), size, seed)
        return
    samples = Replay(source(labels))(expert(classes=(2, 5, 7)), size, seed)
    chosen, counts, there = drawn(samples), Counter(samples.labels.tolist()), Counter(known)
    assert len(chosen) == size
    assert samples.labels.tolist() == [labels[k] for k in chosen]
    assert set(counts) <= {2, 5, 7}
    if size <= len(known):
        assert len(set(chosen)) == size
        # A class has fewer than another only if it has no more, but for the remainder of the division.
        assert all(counts[k] >= max(counts.values()) - 1 or counts[k] == there[k] for k in there)
    else:
        often = Counter(chosen)
        assert len(often) == len(known)
        assert max(often.values()) - min(often.values()) <= 1


def test_the_seed_decides_which_images_are_replayed():
    replay = Replay(source([2, 5] * 20))
    assert drawn(replay(expert(), 9, 1)) == drawn(replay(expert(), 9, 1))
    assert drawn(replay(expert(), 9, 1)) != drawn(replay(expert(), 9, 2))


def test_every_image_has_its_chance():
    replay = Replay(source([2] * 10))
    assert {k for seed in range(60) for k in drawn(replay(expert(), 2, seed))} == set(range(10))


def test_task_and_experience_of_replay():
    samples = Replay(source([2, 5]))(expert(), 2, 0, GenerationContext(experience=3))
    assert samples.tasks.tolist() == [4, 4]
    assert samples.experiences.tolist() == [3, 3]


def test_faults_of_replay():
    with pytest.raises(DataError, match="got no labels"):
        Replay(InMemory(torch.zeros(2, 1, 6, 6)))(expert(), 1, 0)
    with pytest.raises(DataError, match=r"classes \(2, 5, 7\).*got none"):
        Replay(source([1, 3]))(expert(classes=(2, 5, 7)), 1, 0)
    with pytest.raises(ShapeError):
        Replay(InMemory(torch.zeros(2, 3, 6, 6), torch.tensor([2, 5])))(expert(), 1, 0)
