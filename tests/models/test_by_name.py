"""Architectures by name: of other libraries, and of layers in sequence."""

from typing import Any

import pytest
import torch
from torch import nn

from exml.core.errors import ExmlError, SettingError, UnknownNameError
from exml.models import CifarResNet, build, describe, filled, sequential, settings, sketch


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("torchvision/resnet18", {"channels": 1}),
        ("torchvision/vit_b_32", {"image_size": 32}),
        ("torchvision/googlenet", {"aux_logits": False}),
        ("timm/resnet18.a1_in1k", {"channels": 1}),
        ("timm/vit_tiny_patch16_224", {"image_size": 32}),
    ],
)
def test_a_model_of_a_library_is_built_again_from_its_description(name: str, given: dict[str, Any]) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    shape = (given.get("channels", 3), 32, 32)
    chosen = filled(name, given, 7, shape)
    assert chosen["classes"] == 7
    module = build(name, **chosen).eval()
    with torch.no_grad():
        assert module(torch.zeros(2, *shape)).shape == (2, 7)
    described = describe(module)
    again = sketch(described["name"], **described["settings"])
    assert again is not None
    assert {key: part.shape for key, part in again.state_dict().items()} == {
        key: part.shape for key, part in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("torchvision/resnet19", {}, "resnet18.*'resnet19'"),
        ("torchvision/fasterrcnn_resnet50_fpn", {}, "classification"),
        ("timm/hf-hub:somebody/model", {}, "classification model of timm"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, "weights"),
        ("timm/resnet18", {"pretrained_cfg": {"file": "x"}}, "pretrained_cfg"),
        ("timm/resnet18", {"checkpoint_path": "/x"}, "checkpoint_path"),
        ("torchvision/resnet18", {"depth": 3}, "depth"),
    ],
)
def test_a_library_loads_no_weights_and_knows_its_names(name: str, given: dict[str, Any], message: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ExmlError, match=message):
        build(name, **given)


@pytest.mark.parametrize(("blocks", "parameters"), [(3, "0.27"), (5, "0.46"), (7, "0.66"), (9, "0.85")])
def test_cifar_resnets_have_the_parameters_of_table_6_of_he_et_al(blocks: int, parameters: str) -> None:
    module = CifarResNet(blocks)
    assert f"{sum(part.numel() for part in module.parameters()) / 1e6:.2f}" == parameters
    assert module.eval()(torch.zeros(2, 3, 33, 33)).shape == (2, 10)


def test_a_sequence_is_what_pytorch_makes_of_it() -> None:
    layers = ["relu", {"Conv2d": [1, 4, [3, 1]]}, {"batch_norm2d": {"num_features": 4}}, {"leaky_relu": 0.2}]
    made = sequential([*layers, {"adaptive_avg_pool2d": 1}, "flatten", {"linear": [4, 2]}])
    theirs = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 4, (3, 1)), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
    theirs.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)])
    assert repr(made) == repr(theirs)
    assert repr(build("sequential", **describe(made)["settings"])) == repr(theirs)
    assert settings("sequential") == ("layers",)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("rellu", r"ReLU.*layer 0 .*'rellu'"),
        ({"linear": [2]}, "out_features"),
        ({"linear": {"in_features": 2, "out_features": 2, "device": "cpu"}}, "device cannot be set"),
        ({"conv2d": [1, 1, 1, 1, 0, 1, 1, True, "zeros", "cpu"]}, "device cannot be set"),
        ({"multihead_attention": [4, 2]}, "a layer of torch.nn"),
        ({"sequential": []}, "a layer of torch.nn"),
        ({"linear": [2, 2], "relu": []}, "its arguments"),
        (3, "its arguments"),
    ],
    ids=str,
)
def test_a_faulty_layer_is_named(layer: Any, message: str) -> None:
    with pytest.raises((SettingError, UnknownNameError), match=message):
        build("sequential", layers=[layer])
    with pytest.raises(ExmlError, match=r"a larger 'sequential'"):
        sketch("sequential", layers=[{"linear": [10**6, 10**6]}])
