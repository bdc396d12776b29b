"""Growing the last layer of a classifier: old rows stay, the record says so, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from exml import models
from exml.core.errors import SettingError
from exml.models import build, describe, grow_head

torchvision = pytest.importorskip("torchvision.models")
timm = pytest.importorskip("timm")


def probabilities():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Softmax(1))


def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


MODULES = {
    "conv-net": lambda: build("conv-net", channels=3, classes=4, image_size=32, widths=(4, 4)),
    "lenet5": lambda: build("lenet5", channels=3, classes=84),  # as wide as a hidden layer
    "slim-resnet18": lambda: build("slim-resnet18", classes=4, width=2),
    "resnet18": lambda: build("resnet18", classes=4),
    "mobilenet-v2": lambda: build("mobilenet-v2", classes=4),
    "normalized": lambda: models.Normalized(models.Normalized(build("lenet5", channels=3, classes=4)), (0.5,), (0.2,)),
    "cifar-resnet": lambda: build("cifar-resnet", classes=4, blocks=1, width=2),
    "library": lambda: build("torchvision/squeezenet1_1", classes=4),
    "layers": lambda: build("sequential", layers=["flatten", {"linear": [3072, 4]}, "relu", {"linear": [4, 4]}]),
    "torchvision resnet18": lambda: torchvision.resnet18(num_classes=4),
    "torchvision googlenet": lambda: torchvision.googlenet(num_classes=4, init_weights=False),
    "timm resnet": lambda: timm.create_model("resnet10t", num_classes=4),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=4),
    "timm convnext": lambda: timm.create_model("convnext_atto", num_classes=4),
    "sequential": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 4, bias=False)),
    "convolution": convolution,
    "linear alone": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)),
}


@pytest.mark.parametrize("kind", MODULES)
def test_old_rows_stay_and_new_ones_come(kind):
    torch.manual_seed(0)
    module = MODULES[kind]().eval()
    before = copy.deepcopy(module)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        old = module(images)
    outputs = old.shape[1]
    grow_head(module, outputs + 3, (3, 32, 32))
    with torch.no_grad():
        new = module(images)
    assert new.shape == (2, outputs + 3)
    torch.testing.assert_close(new[:, :outputs], old)
    tensors = module.state_dict()
    grown = {key for key, was in before.state_dict().items() if was.shape != tensors[key].shape}
    assert len({key.rpartition(".")[0] for key in grown}) == 1
    assert all(
        torch.equal(tensors[key][: len(was)] if was.ndim else tensors[key], was)
        for key, was in before.state_dict().items()
    )
    assert not any(part.training for part in module.modules())
    for seed, alike in ((0, True), (1, False)):
        other = copy.deepcopy(before)
        grow_head(other, outputs, (3, 32, 32))  # nothing
        grow_head(other, outputs + 3, (3, 32, 32), seed=seed)
        assert all(torch.equal(other.state_dict()[key], tensors[key]) == alike for key in grown)
    if hasattr(module, "_exml_architecture"):
        plain = describe(module)
        build(plain["name"], **plain["settings"]).load_state_dict(tensors)
        assert describe(before) != plain


@models.register("test-layers")
def of_layers(layers, extra=4):
    return nn.Sequential(nn.Flatten(), *(nn.Linear(*sizes) for sizes in layers))


@models.register("test-fixed")
def fixed(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.Linear(width, 3))


def test_the_setting_is_found_by_what_it_does():
    module = of_layers([(3072, 4), [4, 4]])
    grow_head(module, 6, (3, 32, 32))
    assert describe(module)["settings"] == {"layers": [[3072, 4], [4, 6]], "extra": 4}


@pytest.mark.parametrize(
    ("module", "classes", "words"),
    [
        (probabilities(), 6, "ends in an nn.Linear.*none of 1 such.*enough outputs from the beginning"),
        (nn.Sequential(nn.Flatten()), 4000, "none of 0"),
        (MODULES["sequential"](), 3, "at least 4 outputs.*got 3"),
        (fixed(), 6, "a setting of 'test-fixed'"),
        (nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(3072, 4))), 6, "none of 1"),
    ],
)
def test_a_head_that_cannot_grow(module, classes, words):
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(SettingError, match=words):
        grow_head(module, classes, (3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
