"""Scenarios out of any dataset, by properties."""

import inspect
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exml.core.errors import DataError, SettingError
from exml.core.samples import Samples
from exml.scenarios import ExpertSetup, joint, multi_task, new_classes, new_instances


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
        setup=ExpertSetup(
            {"name": "conv-net", "settings": {"channels": 1, "classes": 5, "image_size": 4, "widths": [2]}}
        ),
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


@given(data=st.data(), classes=st.sets(st.integers(0, 12), min_size=1, max_size=8), seed=st.integers(0, 3))
def test_classes_are_dealt_out_in_the_shares_that_are_asked_for(
    data: st.DataObject, classes: set[int], seed: int
) -> None:
    samples = dataset([*classes] * 2)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(classes) - 1)))) if len(classes) > 1 else []
    sizes = [high - low for low, high in itertools.pairwise([0, *cuts, len(classes)])]
    order = data.draw(st.none() | st.permutations(sorted(classes)))
    scenario = new_classes(samples, samples, classes_each=sizes, order=order, seed=seed)
    own = [experience.classes for experience in scenario.experiences]
    assert [len(part) for part in own] == sizes
    assert sorted(itertools.chain(*own)) == sorted(classes)
    if order is not None:
        assert [set(part) for part in own] == [
            set(order[low:high]) for low, high in itertools.pairwise([0, *cuts, len(classes)])
        ]
    for experience in scenario.experiences:
        assert set(experience.train.labels.tolist()) == set(experience.classes)
    assert sorted(itertools.chain(*(numbers(part.train) for part in scenario.experiences))) == list(range(len(samples)))


@given(groups=st.lists(st.integers(-3, 4), min_size=1, max_size=30), data=st.data())
def test_instances_go_by_group(groups: list[int], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups)))
    samples = dataset(labels)
    scenario = new_instances(samples, samples, groups=torch.tensor(groups))
    for experience, group in zip(scenario.experiences, sorted(set(groups)), strict=True):
        rows = [row for row, its in enumerate(groups) if its == group]
        assert numbers(experience.train) == rows
        assert experience.classes == tuple(sorted({labels[row] for row in rows}))
        assert set(experience.train.experiences.tolist()) == {experience.index}
        assert experience.test is scenario.experiences[0].test


def test_a_group_without_gaps_is_no_copy() -> None:
    samples = dataset([0, 1] * 3)
    scenario = new_instances(samples, samples, groups=torch.tensor([0, 0, 1, 1, 1, 1]))
    for experience, first in zip(scenario.experiences, (0, 2), strict=True):
        assert experience.train.images.data_ptr() == samples.images[first:].data_ptr()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({}, "not both"),
        ({"experiences": 2, "classes_each": [1, 1]}, "not both"),
        ({"classes_each": [1, 2]}, "2 in all"),
        ({"classes_each": [2, 0]}, "at least 1"),
        ({"experiences": 2, "order": [0, 0]}, "once"),
        ({"experiences": 2, "order": [0]}, "once"),
    ],
)
def test_shares_that_contradict_themselves_are_typed_errors(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingError, match=match):
        new_classes(dataset([0, 1]), dataset([0, 1]), **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"experiences": 1, "groups": torch.tensor([0, 1])}, {"groups": torch.tensor([0])}]
)
def test_groups_that_contradict_themselves_are_typed_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="groups"):
        new_instances(dataset([0, 1]), dataset([0, 1]), **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_of_bytes_are_those_of_their_pixels(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inspect.unwrap(joint).__globals__, "_PART", 7)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, channels, 5, 5), generator=generator, dtype=torch.uint8)
    samples = Samples.of(images, torch.arange(40) % 2)
    scenario = joint(samples, samples)
    pixels = images.double().transpose(0, 1).flatten(1).numpy() / 255
    assert scenario.mean == pytest.approx(tuple(pixels.mean(1)), rel=1e-7)
    assert scenario.std == pytest.approx(tuple(pixels.std(1)), rel=1e-7)
    given = joint(samples, samples, setup=ExpertSetup(statistics=([0.5] * channels, [0.25] * channels)))
    assert (given.mean, given.std) == ((0.5,) * channels, (0.25,) * channels)
