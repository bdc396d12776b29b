"""Names of architectures."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from exml import models
from exml.core.errors import SettingError, UnknownNameError


@models.register("test-two-layers")
class TwoLayers(nn.Module):
    """An architecture from outside the package."""

    def __init__(self, inputs: int, *, hidden: int = 3) -> None:
        super().__init__()
        if hidden > 100:
            raise ValueError("too many")
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.flatten(1))


@models.register("test-function")
def make(width: int = 2, **extra: Any) -> nn.Module:
    return nn.Linear(width, extra.get("classes", 5))


class Subclass(models.ConvNet):
    """Not what "conv-net" builds."""


@pytest.mark.parametrize(
    ("module", "description"),
    [
        (
            models.ConvNet(1, 10, 8, widths=(4,)),
            {
                "name": "conv-net",
                "settings": {"channels": 1, "classes": 10, "image_size": 8, "widths": [4], "batch_norm": True},
            },
        ),
        (
            models.SlimResNet18(width=2),
            {"name": "slim-resnet18", "settings": {"channels": 3, "classes": 10, "width": 2}},
        ),
        (TwoLayers(4), {"name": "test-two-layers", "settings": {"inputs": 4, "hidden": 3}}),
        (make(3, classes=4), {"name": "test-function", "settings": {"width": 3, "classes": 4}}),
        (
            models.Normalized(models.LeNet5(), (0.5,), (0.25,)),
            {
                "name": "normalized",
                "settings": {
                    "module": {"name": "lenet5", "settings": {"channels": 1, "classes": 10, "image_size": 32}},
                    "mean": [0.5],
                    "std": [0.25],
                },
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_description_builds_the_same_architecture(module: nn.Module, description: dict[str, Any]) -> None:
    assert models.describe(module) == description
    again = json.loads(json.dumps(description))
    built = models.build(again["name"], **again["settings"])
    assert models.describe(built) == description
    assert models.describe(copy.deepcopy(module)) == description
    built.load_state_dict(module.state_dict())
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == {
        name: tensor.shape for name, tensor in module.state_dict().items()
    }


def test_names_are_sorted_and_complete() -> None:
    assert set(models.names()) >= {"conv-net", "lenet5", "normalized", "slim-resnet18", "test-two-layers"}
    assert list(models.names()) == sorted(models.names())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="conv-net, lenet5"):
        models.build("convnet")


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"channels": 1, "classes": 10}, "image_size"),
        ({"channels": 1, "classes": 10, "image_size": 8, "depth": 3}, "depth"),
        ({"channels": "one", "classes": 10, "image_size": 8}, "'one'"),
        ({"channels": 1, "classes": 10, "image_size": 8, "widths": 4}, "widths"),
    ],
)
def test_wrong_settings_are_typed_errors(settings: dict[str, Any], got: str) -> None:
    with pytest.raises(SettingError, match=got):
        models.build("conv-net", **settings)


def test_what_a_foreign_architecture_refuses_is_a_typed_error() -> None:
    with pytest.raises(SettingError, match="too many"):
        models.build("test-two-layers", inputs=2, hidden=101)


@pytest.mark.parametrize("module", [nn.Linear(1, 1), Subclass(1, 2, 4), models.Normalized(nn.Flatten())])
def test_a_foreign_module_is_told_how_to_register(module: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"exml\.models\.register"):
        models.describe(module)


def test_a_setting_that_json_lacks_is_a_typed_error() -> None:
    with pytest.raises(SettingError, match="JSON"):
        models.describe(make(3, weights=torch.zeros(1)))


def test_a_name_is_given_once() -> None:
    with pytest.raises(SettingError, match="conv-net"):
        models.register("conv-net")(TwoLayers)
    models.register("test-two-layers")(TwoLayers)  # the same again, as when a module is reloaded
    assert models.describe(TwoLayers(4))["settings"] == {"inputs": 4, "hidden": 3}


def test_a_sketch_has_the_layout_and_no_memory() -> None:
    sketched = models.sketch("conv-net", channels=1, classes=2, image_size=8)
    assert sketched is not None
    built = models.build("conv-net", channels=1, classes=2, image_size=8).state_dict()
    assert {name: tensor.shape for name, tensor in built.items()} == {
        name: tensor.shape for name, tensor in sketched.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in sketched.state_dict().values())


@models.register("test-deep")
def deep(depth: int, reads: bool = False) -> nn.Module:
    layers = [nn.Linear(1, 1) for _ in range(depth)]
    if reads:
        layers[0].weight.sum().item()
    return nn.Sequential(*layers)


def test_a_sketch_is_bounded() -> None:
    before = torch.get_rng_state()
    for name, settings in (
        ("test-deep", {"depth": 10**9}),
        ("slim-resnet18", {"width": 10**5}),
        ("mobilenet-v2", {"classes": 10**9}),
        ("conv-net", {"channels": 2**62, "classes": 2**62, "image_size": 8}),
    ):
        with pytest.raises(SettingError, match=name):
            models.sketch(name, **settings)
    with pytest.raises(UnknownNameError):
        models.sketch("oak")
    assert models.sketch("test-deep", depth=2, reads=True) is None
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(models.build("test-deep", depth=11_000).parameters())) == 22_000  # only sketches are bounded
