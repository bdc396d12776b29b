"""Scenarios out of any dataset, by properties."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.errors import DataError
from exml.samples import Samples
from exml.scenarios import joint, multi_task, new_classes, new_instances


def dataset(labels: list[int], channels: int = 1, size: int = 4) -> Samples:
    """Images whose first pixel is their own number."""
    images = torch.rand(len(labels), channels, size, size, generator=torch.Generator().manual_seed(len(labels)))
    images[:, 0, 0, 0] = torch.arange(len(labels))
    return Samples.of(images, torch.tensor(labels))


def numbers(samples: Samples) -> list[int]:
    return [round(value) for value in samples.images[:, 0, 0, 0].tolist()]


@given(
    classes=st.sets(st.integers(0, 12), min_size=1, max_size=8),
    repeats=st.integers(1, 3),
    experiences=st.integers(1, 8),
    seed=st.integers(0, 3),
    tasks=st.booleans(),
)
def test_classes_are_dealt_out_completely_and_evenly(
    classes: set[int], repeats: int, experiences: int, seed: int, tasks: bool
) -> None:
    samples = dataset([*classes] * repeats)
    split = multi_task if tasks else new_classes
    if experiences > len(classes):
        with pytest.raises(DataError, match=f"at least {experiences} classes"):
            split(samples, samples, experiences=experiences, seed=seed)
        return
    scenario = split(samples, samples, experiences=experiences, seed=seed)
    own = [experience.classes for experience in scenario.experiences]
    assert sorted(itertools.chain(*own)) == sorted(classes)
    assert {len(part) for part in own} <= {len(classes) // experiences, -(-len(classes) // experiences)}
    assert sorted(itertools.chain(*(numbers(part.train) for part in scenario.experiences))) == list(range(len(samples)))
    for index, experience in enumerate(scenario.experiences):
        assert set(experience.train.labels.tolist()) == set(experience.classes)
        assert experience.task == (index if tasks else None)
    assert scenario.tasks == (tuple(own) if tasks else None)
    assert scenario.classes == max(classes) + 1
    again = split(samples, samples, experiences=experiences, seed=seed)
    assert [experience.classes for experience in again.experiences] == own


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40), experiences=st.integers(1, 4), seed=st.integers(0, 3)
)
def test_instances_are_dealt_out_completely_and_evenly(labels: list[int], experiences: int, seed: int) -> None:
    samples = dataset(labels)
    counts = samples.labels.bincount()
    if int(counts[counts > 0].min()) < experiences:
        with pytest.raises(DataError, match=f"at least {experiences} training images"):
            new_instances(samples, samples, experiences=experiences, seed=seed)
        return
    scenario = new_instances(samples, samples, experiences=experiences, seed=seed)
    parts = [experience.train for experience in scenario.experiences]
    assert sorted(itertools.chain(*map(numbers, parts))) == list(range(len(labels)))
    assert all(numbers(part) == sorted(numbers(part)) for part in parts)
    width = len(counts)
    shares = torch.stack([part.labels.bincount(minlength=width) for part in parts])
    assert int((shares.max(0).values - shares.min(0).values).max()) <= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(experience.test is scenario.experiences[0].test for experience in scenario.experiences)


def test_another_seed_is_another_split() -> None:
    samples = dataset(list(range(6)) * 6)
    orders = {
        tuple(part.classes for part in new_classes(samples, samples, experiences=3, seed=seed).experiences)
        for seed in range(4)
    }
    shares = {
        tuple(numbers(new_instances(samples, samples, experiences=3, seed=seed).experiences[0].train))
        for seed in range(4)
    }
    assert len(orders) == len(shares) == 4


def test_the_default_model_fits_the_images() -> None:
    samples = dataset([0, 5, 2] * 4, channels=3, size=6)
    scenario = joint(samples, samples)
    assert scenario.make_module(0)(samples.images).shape == (12, 6)
    assert scenario.image_shape == (3, 6, 6)
    pixels = samples.images.double().transpose(0, 1).flatten(1)
    assert scenario.mean == pytest.approx(tuple(pixels.mean(1).tolist()))
    assert scenario.std == pytest.approx(tuple(pixels.numpy().std(1).tolist()))


def test_training_moves_only_what_the_scenario_says() -> None:
    samples = dataset([0, 1] * 4)
    [expert] = joint(
        samples,
        samples,
        architecture={"name": "conv-net", "settings": {"channels": 1, "classes": 5, "image_size": 4, "widths": [2]}},
    ).train_experts()
    assert expert.outputs == (0, 1, 2, 3, 4)
    assert expert.classes == (0, 1)


@pytest.mark.parametrize(
    ("train", "test", "experiences", "expected"),
    [
        (dataset([0, 1])[:0], dataset([0]), 1, "training and test images"),
        (dataset([0, 1]), dataset([0])[:0], 1, "training and test images"),
        (dataset([0, 1]), dataset([2]), 1, "test labels"),
        (dataset([-1, 1]), dataset([1]), 1, "test labels"),
        (dataset([0, 1]), dataset([0], size=5), 1, "test images"),
        (dataset([0, 1]), dataset([0]), 0, "at least 1 experience"),
    ],
)
def test_faulty_data_are_typed_errors(train: Samples, test: Samples, experiences: int, expected: str) -> None:
    for split in (new_classes, new_instances, multi_task):
        with pytest.raises(DataError, match=expected):
            split(train, test, experiences=experiences)
    if experiences:
        with pytest.raises(DataError, match=expected):
            joint(train, test)


def test_an_experience_without_test_images_is_a_typed_error() -> None:
    with pytest.raises(DataError, match="test images of the classes"):
        new_classes(dataset([0, 1]), dataset([0]), experiences=2)
