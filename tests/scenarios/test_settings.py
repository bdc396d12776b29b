"""A scenario's name may say how its experts are trained."""

import attrs
import pytest

from exml import scenarios
from exml.augmentation import Augmentation
from exml.core.errors import SettingError, UnknownNameError
from exml.experts import ExpertTraining


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=4", {"epochs": 4}),
        ("epochs=4,learning_rate=0.05,schedule=cosine", {"epochs": 4, "learning_rate": 0.05, "schedule": "cosine"}),
        ("batch_size=128, weight_decay=1e-4", {"batch_size": 128, "weight_decay": 1e-4}),
        ("momentum=0,learning_rate=1", {"momentum": 0.0, "learning_rate": 1.0}),
        ("augmentation=cifar10", {"augmentation": Augmentation.cifar10()}),
        ("augmentation=none", {"augmentation": None}),
    ],
)
def test_settings_change_the_training_and_nothing_else(text: str, expected: dict[str, object]) -> None:
    plain, found = scenarios.load("digits-nc", 3), scenarios.load(f"digits-nc:{text}", 3)
    assert found.name == f"digits-nc:{text}"
    assert found.training == attrs.evolve(plain.training, **expected)
    assert [part.classes for part in found.experiences] == [part.classes for part in plain.experiences]
    assert scenarios.describe(f"digits-nc:{text}") == scenarios.describe("digits-nc")
    assert scenarios.describe(f"mnist-nc:{text}") == scenarios.describe("mnist-nc")


def test_every_field_of_the_training_can_be_set() -> None:
    values = {
        "epochs": 7,
        "batch_size": 3,
        "learning_rate": 0.3,
        "momentum": 0.5,
        "weight_decay": 0.2,
        "schedule": "cosine",
        "augmentation": "mnist",
        "precision": "bfloat16",
    }
    assert set(values) == {field.name for field in attrs.fields(ExpertTraining)}
    text = ",".join(f"{field}={value}" for field, value in values.items())
    expected = {**values, "augmentation": Augmentation.mnist()}
    found = scenarios.load(f"digits-joint:{text}").training
    assert {name: getattr(found, name) for name in values} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "field=value"),
        ("epochs", "field=value"),
        ("epochs=", "field=value"),
        ("=4", "field=value"),
        ("epochs=4,", "field=value"),
        ("epochs=4,epochs=5", "each once"),
        ("rate=0.1", "learning_rate"),
        ("epochs=0", ">= 1"),
        ("epochs=2.5", "type int"),
        ("epochs=many", "type int"),
        ("learning_rate=nan", "> 0"),
        ("schedule=linear", "cosine"),
        ("augmentation=heavy", "none, mnist, cifar10, core50"),
    ],
)
def test_settings_that_are_none_are_typed_errors(text: str, message: str) -> None:
    for name in ("digits-nc", "mnist-nc"):  # one that is made to be described, and one that is not
        with pytest.raises(SettingError, match=message) as caught:
            scenarios.describe(f"{name}:{text}")
        assert caught.value.remedy
    with pytest.raises(SettingError, match=message):
        scenarios.load(f"digits-nc:{text}")
    with pytest.raises(UnknownNameError, match="digits-nc"):
        scenarios.load(f"digits:{text}")
