"""The embedded scenarios: real images, fixed parts, nothing shared between training and test."""

import inspect
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import MNIST

from exml import scenarios
from exml.core.errors import DataError, ExmlWarning, SettingError, UnknownNameError
from exml.core.samples import Samples
from exml.datasets import mnist
from exml.experts import ExpertTraining
from exml.protocols import Source

NAMES = ("digits-joint", "digits-nc", "digits-mt", "digits-ni")


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def quick(name: str, seed: int = 0, epochs: int = 1) -> scenarios.Scenario:
    """The scenario with fewer images and epochs."""
    scenario = scenarios.load(name, seed)
    short = [attrs.evolve(part, train=part.train[::8]) for part in scenario.experiences]
    return attrs.evolve(scenario, experiences=short, training=ExpertTraining(epochs=epochs, learning_rate=0.01))


def test_the_parts_are_all_of_scikit_learns_images_once() -> None:
    parts = scenarios.digit_images()
    data, target = load_digits(return_X_y=True)
    images = torch.cat([part.images for part in parts.values()])
    labels = torch.cat([part.labels for part in parts.values()])
    found = sorted(
        (round(label), tuple(image))
        for label, image in zip(labels.tolist(), (images.flatten(1) * 16).tolist(), strict=True)
    )
    assert found == sorted((int(label), tuple(image)) for label, image in zip(target, data.tolist(), strict=True))
    assert (float(images.min()), float(images.max())) == (0, 1)
    for part, count in (("validation", 30), ("test", 50)):
        assert parts[part].labels.bincount().tolist() == [count] * 10


def weighted(parts: Mapping[str, Samples], levels: int) -> dict[str, int]:
    """A checksum of each part that depends on the order. Published numbers depend on the parts."""
    ink = {part: (samples.pixels() * levels).round().long().sum((1, 2, 3)) for part, samples in parts.items()}
    return {part: int((sums * torch.arange(len(sums))).sum()) for part, sums in ink.items()}


def test_the_parts_of_digits_are_fixed_for_ever() -> None:
    expected = {"train": 155_476_321, "validation": 13_940_445, "test": 38_705_327}
    assert weighted(scenarios.digit_images(), 16) == expected


def test_the_parts_of_mnist_are_fixed_for_ever(exml_data: Path) -> None:
    parts = scenarios.mnist_images()
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    assert parts["validation"].labels.bincount().tolist() == [500] * 10
    together = torch.cat([parts["train"].images, parts["validation"].images]).long().sum((1, 2, 3))
    assert torch.equal(together.sort().values, MNIST(exml_data).data.long().sum((1, 2)).sort().values)
    expected = {"train": 39_334_018_395_908, "validation": 327_576_246_862, "test": 1_377_020_976_277}
    assert weighted(parts, 255) == expected
    inspect.unwrap(mnist).__globals__["_parts"].cache_clear()


@pytest.mark.parametrize(("name", "split", "seed"), [*itertools.product(NAMES, ("test", "validation"), (0, 3))])
def test_every_image_of_a_part_is_in_one_experience(name: str, split: scenarios.Split, seed: int) -> None:
    scenario = scenarios.load(name, seed, split)
    parts = scenarios.digit_images()
    trained = [as_set(experience.train.images) for experience in scenario.experiences]
    tested = [as_set(experience.test.images) for experience in scenario.experiences]
    assert sum(map(len, trained)) == len(set().union(*trained)) == len(as_set(parts["train"].images))
    assert set().union(*trained) == as_set(parts["train"].images)
    assert set().union(*tested) == as_set(parts[split].images)
    assert not set().union(*trained) & set().union(*tested)
    assert len(scenario.experiences) == (1 if name == "digits-joint" else 5)
    for number, experience in enumerate(scenario.experiences, 1):
        assert experience.index == number
        for samples in (experience.train, experience.test):
            assert tuple(samples.labels.unique().tolist()) == experience.classes
            assert set(samples.tasks.tolist()) == {-1 if experience.task is None else experience.task}
        assert set(experience.train.experiences.tolist()) == {number}


def test_new_classes_and_tasks_have_two_digits_each_in_the_order_of_the_seed() -> None:
    for name in ("digits-nc", "digits-mt"):
        orders = {tuple(part.classes for part in scenarios.load(name, seed).experiences) for seed in range(5)}
        assert len(orders) == 5
        for order in orders:
            assert sorted(itertools.chain(*order)) == list(range(10))
            assert all(len(classes) == 2 for classes in order)
        assert (
            scenarios.load(name, 1, "test").experiences[0].classes
            == scenarios.load(name, 1, "validation").experiences[0].classes
        )


def test_what_is_known_of_a_test_image() -> None:
    joint, nc, mt, ni = (scenarios.load(name) for name in NAMES)
    assert [part.tasks is not None for part in (joint, nc, mt, ni)] == [False, False, True, False]
    assert [part.shared_test for part in (joint, nc, mt, ni)] == [False, False, False, True]
    assert mt.tasks == tuple(experience.classes for experience in mt.experiences)
    assert nc.tasks is None
    assert [set(part.test.experiences.tolist()) for part in nc.experiences] == [{1}, {2}, {3}, {4}, {5}]
    assert set(ni.experiences[0].test.experiences.tolist()) == {0}
    assert max(len(part.train) for part in ni.experiences) - min(len(part.train) for part in ni.experiences) <= 1
    counts = torch.stack([part.train.labels.bincount() for part in ni.experiences])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_mean_and_std_are_those_of_the_training_images(name: str) -> None:
    scenario = scenarios.load(name)
    pixels = scenarios.digit_images()["train"].images.double()
    assert scenario.mean == pytest.approx((float(pixels.mean()),))
    assert scenario.std == pytest.approx((float(((pixels - pixels.mean()) ** 2).mean().sqrt()),))


def test_unknown_names_and_splits_are_typed_errors() -> None:
    with pytest.raises(UnknownNameError, match=r"one of mnist-nc, mnist-joint.*digits-nc"):
        scenarios.load("mnist")
    with pytest.raises(SettingError, match="validation"):
        inspect.unwrap(scenarios.load)("digits-nc", 0, "train")  # without the tests' own check of types
    with pytest.raises(SettingError, match="digits-nc"):
        scenarios.register("digits-nc")(lambda seed, split: scenarios.load("digits-ni", seed, split))


def test_the_source_gives_the_real_data_of_each_experience() -> None:
    source = scenarios.ScenarioSource("digits-nc", seed=2)
    assert isinstance(source, Source)
    for experience in scenarios.load("digits-nc", 2).experiences:
        images, labels = source(experience.index)
        assert torch.equal(images, experience.train.images)
        assert labels is not None
        assert torch.equal(labels, experience.train.labels)
    for index in (0, 6):
        with pytest.raises(DataError, match="from 1 to 5"):
            source(index)
    with pytest.raises(SettingError):
        scenarios.ScenarioSource("digits-nc", seed=-1)


def test_experts_begin_alike_have_full_heads_and_fit_their_experience() -> None:
    scenario = quick("digits-mt")
    told: list[tuple[int, int]] = []
    experts = list(scenario.train_experts(3, progress=lambda done, total: told.append((done, total))))
    assert told == [(done, 5) for done in range(1, 6)]
    for expert, experience in zip(experts, scenario.experiences, strict=True):
        assert (expert.classes, expert.task) == (experience.classes, experience.task)
        assert (expert.outputs, expert.mean, expert.std) == (tuple(range(10)), scenario.mean, scenario.std)
        expert.check(10)
    first, again = scenario.make_module(3, "experts"), scenario.make_module(3, "experts")
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), again.parameters(), strict=True))
    student = scenario.make_student(3)
    assert student.mean.flatten().tolist() == pytest.approx(scenario.mean)
    weights = next(iter(student.module.parameters()))
    assert not torch.equal(weights, next(first.parameters()))


def test_experts_in_a_folder_are_those_in_memory_and_are_trained_once(tmp_path: Path) -> None:
    scenario = quick("digits-nc")
    in_memory = [expert.fingerprint() for expert in scenario.train_experts(1)]
    stream = scenario.train_experts(1, tmp_path)
    assert [expert.fingerprint() for expert in stream] == in_memory
    assert [expert.name for expert in stream] == [f"digits-nc-{index}" for index in range(1, 6)]
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    # Cut one short and lose the card of another, as a kill or a bad disk does: those two are trained again.
    weights = tmp_path / "expert-2.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "expert-4.json").unlink()
    told: list[tuple[int, int]] = []
    with pytest.warns(ExmlWarning, match=r"expert-2\.json is trained again"):
        again = scenario.train_experts(1, str(tmp_path), progress=lambda done, total: told.append((done, total)))
    assert [expert.fingerprint() for expert in again] == in_memory
    assert told[-1] == (5, 5)
    kept = {path.stem for path in tmp_path.glob("*.json") if path.stat().st_mtime == 1}
    assert kept == {"expert-1", "expert-3", "expert-5"}


@pytest.mark.parametrize("change", ["seed", "settings", "data", "architecture"])
def test_experts_of_other_settings_are_trained_anew(tmp_path: Path, change: str) -> None:
    scenario = quick("digits-joint")
    scenario.train_experts(0, tmp_path)
    before = json.loads((tmp_path / "expert-1.json").read_text())["sha256"]
    seed = 0
    if change == "seed":
        seed = 1
    elif change == "settings":
        scenario = attrs.evolve(scenario, training=ExpertTraining(epochs=1, learning_rate=0.02))
    elif change == "data":
        [part] = scenario.experiences
        scenario = attrs.evolve(scenario, experiences=[attrs.evolve(part, train=part.train[1:])])
    else:
        settings = {**scenario.architecture["settings"], "widths": [4]}
        scenario = attrs.evolve(scenario, architecture={"name": "conv-net", "settings": settings})
    scenario.train_experts(seed, tmp_path)
    assert json.loads((tmp_path / "expert-1.json").read_text())["sha256"] != before


def test_an_expert_from_before_a_setting_was_added_is_not_trained_anew(tmp_path: Path) -> None:
    scenario = quick("digits-joint")
    scenario.train_experts(0, tmp_path)
    path = tmp_path / "expert-1.json"
    card = json.loads(path.read_text())
    del card["training"]["settings"]["precision"], card["training"]["checksum"]
    path.write_text(json.dumps(card))
    scenario.train_experts(0, tmp_path)
    assert json.loads(path.read_text()) == card


def test_the_joint_expert_is_right_on_97_of_100_test_digits() -> None:
    scenario = scenarios.load("digits-joint")
    [expert] = scenario.train_experts(0)
    test = scenario.experiences[0].test
    with torch.no_grad():
        assert float((expert.predicted_ids(test.images) == test.labels).float().mean()) >= 0.97
