"""Kornia's transformations as components, compared with direct calls of kornia."""

import pytest
import torch
from kornia import augmentation as kornia

import exml
from exml.augmentation import Augmentation, Chain, Kornia
from exml.core.errors import SettingError, ShapeError
from exml.core.rng import global_seed
from exml.core.serialization import from_plain, to_plain
from exml.protocols import Augmentation as AnyAugmentation
from exml.testing import check_augmentation
from tests.helpers import strategy

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PERSPECTIVE = Kornia("RandomPerspective", {"distortion_scale": 0.3, "p": 1.0})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomPerspective", {"distortion_scale": 0.3, "p": 1.0}),
        ("RandomAffine", {"degrees": [-10.0, 10.0], "translate": [0.1, 0.1], "p": 0.7}),
        ("ColorJiggle", {"brightness": 0.2, "hue": [-0.1, 0.1], "p": 1.0}),
        ("RandomGaussianNoise", {"std": 0.1, "p": 1.0}),
        ("RandomElasticTransform", {"kernel_size": [7, 7], "p": 1.0}),
        ("RandomErasing", {"p": 0.9}),
        ("RandomFisheye", {"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [0.9, 1.1], "p": 1.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_class_conforms(name, arguments):
    check_augmentation(Kornia(name, arguments))


def test_gives_what_kornia_gives():
    images = torch.rand(4, 3, 8, 8)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    with global_seed(seed):
        wanted = kornia.RandomPerspective(0.3, p=1.0)(images)
    assert torch.equal(PERSPECTIVE(images, torch.Generator().manual_seed(5)), wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_global_random_state_neither_matters_nor_changes(device):
    images = torch.rand(4, 3, 8, 8, device=device)
    before = torch.get_rng_state()
    one = PERSPECTIVE(images, torch.Generator(device).manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(PERSPECTIVE(images, torch.Generator(device).manual_seed(0)), one)
    assert one.device == images.device


def test_serializes_by_name_and_arguments():
    chain = Chain((Kornia("RandomAffine", {"degrees": [-10.0, 10.0]}), Augmentation(shift=1)))
    assert to_plain(chain.augmentations[0]) == {
        "kind": "kornia",
        "name": "RandomAffine",
        "arguments": {"degrees": [-10.0, 10.0]},
    }
    ours = strategy(augmentation=chain)
    assert exml.Strategy.from_yaml(ours.to_yaml()) == ours
    assert hash(exml.Strategy.from_yaml(ours.to_json())) == hash(ours)
    assert from_plain({"kind": "kornia", "name": "RandomPerspective"}, AnyAugmentation) == Kornia("RandomPerspective")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("RandomPerspectve", {}, "such as RandomPerspective, "),
        ("RandomMixUpV2", {}, "a class of kornia"),  # mixes classes
        ("AugmentationBase2D", {}, "a class of kornia"),
        ("RandomPerspective", {"distortion": 0.3}, r"RandomPerspective\(distortion_scale: .*'distortion': 0.3"),
        ("RandomPerspective", {"distortion_scale": "much"}, "RandomPerspective"),
        ("RandomRotation", {}, "'degrees'"),
        ("RandomAffine", {"degrees": torch.tensor(3.0)}, "numbers, strings or lists for degrees"),
    ],
)
def test_mistakes_are_found_when_it_is_constructed(name, arguments, words):
    with pytest.raises(SettingError, match=words):
        Kornia(name, arguments)


def test_a_transformation_that_changes_the_size_is_refused():
    with pytest.raises(ShapeError, match=r"expected images \(2, 1, 8, 8\).*got \(2, 1, 4, 4\)"):
        Kornia("RandomCrop", {"size": [4, 4]})(torch.rand(2, 1, 8, 8), torch.Generator())
    blur = Kornia("RandomGaussianBlur", {"kernel_size": [19, 19], "sigma": [1.0, 2.0], "p": 1.0})
    with pytest.raises(ShapeError, match=r"RandomGaussianBlur.*got \(2, 1, 8, 8\)"):
        blur(torch.rand(2, 1, 8, 8), torch.Generator())


@pytest.mark.parametrize("plain", [["p"], {1: 0.3}, 3])
def test_arguments_are_a_mapping(plain):
    with pytest.raises(exml.core.errors.ConfigError, match="a mapping of settings"):
        from_plain({"kind": "kornia", "name": "RandomPerspective", "arguments": plain}, AnyAugmentation)
