"""Replay: only the expert's classes, as balanced as they can be, with their true labels."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import BufferSizeError, DataError, ShapeError
from exml.generators import ImageFile, InMemory, Replay
from exml.protocols import GenerationContext
from exml.testing import check_generator
from tests.generators.helpers import expert


def source(labels):
    """Image k is filled with k / 100."""
    images = torch.arange(float(len(labels))).view(-1, 1, 1, 1).expand(-1, 1, 6, 6) / 100
    return InMemory(images, torch.tensor(labels))


def drawn(samples):
    return [round(100 * image.mean().item()) for image in samples.images]


def test_conforms(tmp_path):
    file = ImageFile.write(tmp_path / "a.safetensors", torch.rand(30, 1, 8, 8), torch.arange(30) % 5)
    check_generator(Replay(file))


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


def test_seeds():
    replay = Replay(source([2, 5] * 20))
    assert drawn(replay(expert(), 9, 1)) == drawn(replay(expert(), 9, 1))
    assert drawn(replay(expert(), 9, 1)) != drawn(replay(expert(), 9, 2))


def test_every_image_has_its_chance():
    replay = Replay(source([2] * 10))
    assert {k for seed in range(60) for k in drawn(replay(expert(), 2, seed))} == set(range(10))


def test_task_and_experience():
    samples = Replay(source([2, 5]))(expert(), 2, 0, GenerationContext(experience=3))
    assert samples.tasks.tolist() == [4, 4]
    assert samples.experiences.tolist() == [3, 3]


def test_faults():
    with pytest.raises(BufferSizeError):
        Replay(source([2]))(expert(), 0, 0)
    with pytest.raises(DataError, match="got no labels"):
        Replay(InMemory(torch.zeros(2, 1, 6, 6)))(expert(), 1, 0)
    with pytest.raises(DataError, match=r"classes \(2, 5, 7\).*got none"):
        Replay(source([1, 3]))(expert(classes=(2, 5, 7)), 1, 0)
    with pytest.raises(ShapeError):
        Replay(InMemory(torch.zeros(2, 3, 6, 6), torch.tensor([2, 5])))(expert(), 1, 0)
