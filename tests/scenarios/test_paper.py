"""The paper's scenarios on CIFAR-10 and CORe50, on made images."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from exml import scenarios
from exml.core.errors import DataError, SettingError
from exml.datasets import cifar10, core50
from exml.experts import Expert, ExpertTraining, load_expert
from exml.generators import Replay
from exml.models import build
from exml.protocols import GenerationContext
from exml.scenarios.paper import _load

CIFAR10 = ("cifar10-joint", "cifar10-nc", "cifar10-mt")
CORE50 = ("core50-joint", "core50-nc", "core50-ni")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What EXML_DATA names, with a cache beside it; what a test has loaded is not another's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    _load.cache_clear()
    for dataset in (cifar10, core50):
        inspect.unwrap(dataset).__globals__["_parts"].cache_clear()


@pytest.fixture
def tiny_cifar10(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 training images and 20 for test, one of each class for validation."""
    monkeypatch.setitem(inspect.unwrap(cifar10).__globals__, "VALIDATION", 1)
    draws = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 30), ("test", 20)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(data / "cifar10.npz", **arrays)
    return data


@pytest.fixture
def tiny_core50(data: Path) -> Path:
    """All 50 things in all 11 sessions, one frame each; and weights that could be those for ImageNet."""
    for session in range(1, 12):
        for thing in range(1, 51):
            folder = data / "core50_128x128" / f"s{session}" / f"o{thing}"
            folder.mkdir(parents=True)
            image = Image.new("L", (128, 128), session * 20)
            image.save(folder / f"C_{session:02}_{thing:02}_000.png", compress_level=1)
    torch.manual_seed(0)
    save_file(build("mobilenet-v2", classes=1000).state_dict(), data / "mobilenet_v2_imagenet1k_v1.safetensors")
    return data


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("name", CIFAR10)
def test_cifar10_is_dealt_out_as_the_paper_says(tiny_cifar10: Path, name: str, split: scenarios.Split) -> None:
    del tiny_cifar10
    scenario, parts = scenarios.load(name, 2, split), cifar10()
    assert scenario.training == ExpertTraining(epochs=100, batch_size=32, learning_rate=0.01)  # appendix A.2
    assert scenario.architecture == {"name": "slim-resnet18", "settings": {"channels": 3, "classes": 10, "width": 20}}
    assert [len(part.classes) for part in scenario.experiences] == ([10] if name == "cifar10-joint" else [2] * 5)
    assert (scenario.tasks is not None) == (name == "cifar10-mt")
    for chosen, part in (("train", "train"), ("test", split)):
        found = [
            image.numpy().tobytes()
            for experience in scenario.experiences
            for image in getattr(experience, chosen).images
        ]
        assert sorted(found) == sorted(image.numpy().tobytes() for image in parts[part].images)
    assert scenarios.load(name, 2, split).experiences is scenario.experiences


def test_the_three_streams_of_cifar10_have_one_order_of_classes(tiny_cifar10: Path) -> None:
    del tiny_cifar10
    nc, mt = (scenarios.load(name, 3) for name in ("cifar10-nc", "cifar10-mt"))
    assert [part.classes for part in nc.experiences] == [part.classes for part in mt.experiences]
    assert mt.tasks == tuple(part.classes for part in mt.experiences)


def test_core50_nc_has_ten_things_and_then_five_each_time(tiny_core50: Path) -> None:
    del tiny_core50
    orders: set[tuple[tuple[int, ...], ...]] = set()
    for seed in (0, 1):
        scenario = scenarios.load("core50-nc", seed)
        orders.add(tuple(part.classes for part in scenario.experiences))
        assert [len(part.classes) for part in scenario.experiences] == [10, 5, 5, 5, 5, 5, 5, 5, 5]
        assert sorted(itertools.chain(*(part.classes for part in scenario.experiences))) == list(range(50))
        for part in scenario.experiences:
            assert set(part.train.labels.tolist()) == set(part.test.labels.tolist()) == set(part.classes)
    assert len(orders) == 2


def test_core50_ni_has_a_training_session_each_time_in_the_order_of_the_seed(tiny_core50: Path) -> None:
    del tiny_core50
    orders: set[tuple[int, ...]] = set()
    for seed in (0, 1):
        scenario = scenarios.load("core50-ni", seed)
        sessions = [(part.train.images[:, 0, 0, 0] // 20).unique().tolist() for part in scenario.experiences]
        assert sorted(sessions) == [[1], [2], [4], [5], [6], [8], [9], [11]]
        orders.add(tuple(session for [session] in sessions))
        assert scenario.shared_test
        assert (scenario.experiences[0].test.images[:, 0, 0, 0] // 20).unique().tolist() == [3, 7, 10]
        assert all(part.classes == tuple(range(50)) for part in scenario.experiences)
    assert len(orders) == 2


def test_core50_follows_the_published_lists_where_they_are(tiny_core50: Path) -> None:
    trained = [(s, o) for s in (1, 2, 4, 5, 6, 8, 9, 11) for o in range(1, 51)]
    backwards = [[(s, o) for s, o in trained if s == session] for session in (11, 9, 8, 6, 5, 4, 2, 1)]
    shares = [range(41, 51), *(range(first, first + 5) for first in range(36, 0, -5))]
    classes = [[(s, o) for s, o in trained if o in share] for share in shares]
    for kind, batches in (("NI_inc/run1", backwards), ("NC_inc/Run1", classes)):
        place = tiny_core50 / "batches_filelists" / kind
        place.mkdir(parents=True)
        tested = [(s, o) for s in (3, 7, 10) for o in range(1, 51)]
        files = {f"train_batch_{number:02}": frames for number, frames in enumerate(batches)} | {"test": tested}
        for name, frames in files.items():
            lines = [f"s{s}/o{o}/C_{s:02}_{o:02}_000.png {o - 1}\n" for s, o in frames]
            (place / f"{name}_filelist.txt").write_text("".join(lines))
    ni = scenarios.load("core50-ni", 11)  # ten runs are published
    order = [(part.train.images[0, 0, 0, 0] // 20).item() for part in ni.experiences]
    assert order == [11, 9, 8, 6, 5, 4, 2, 1]
    nc = scenarios.load("core50-nc", 1)
    assert [part.classes for part in nc.experiences] == [tuple(o - 1 for o in share) for share in shares]
    assert [len(part.classes) for part in scenarios.load("core50-nc", 2).experiences] == [10, *[5] * 8]


def test_core50_begins_with_what_is_known_of_imagenet(tiny_core50: Path, tmp_path: Path) -> None:
    """Experts and student alike; but an expert's card asks for no such weights."""
    names = {name: scenarios.load(name) for name in CORE50}
    for name, epochs in (("core50-joint", 40), ("core50-nc", 4), ("core50-ni", 10)):
        training = ExpertTraining(epochs=epochs, batch_size=128, learning_rate=0.001)  # appendix A.3
        assert names[name].training == training
    scenario = names["core50-joint"]
    assert (scenario.mean, scenario.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.manual_seed(0)
    trunk = {k: v for k, v in build("mobilenet-v2", classes=1000).state_dict().items() if "classifier" not in k}
    expert, student = scenario.make_module(0, "experts"), scenario.make_student(0).module
    for module in (expert, student):
        state = module.state_dict()
        assert all(torch.equal(state[key], value) for key, value in trunk.items())
    assert not torch.equal(expert.classifier[1].weight, student.classifier[1].weight)
    [part] = scenario.experiences
    few = attrs.evolve(part, train=part.train[:4])
    short = attrs.evolve(scenario, experiences=[few], training=ExpertTraining(epochs=1, learning_rate=1e-3))
    short.train_experts(0, tmp_path / "experts")
    record = json.loads((tmp_path / "experts" / "expert-1.json").read_text())
    assert record["training"]["pretrained"] == "imagenet"
    assert record["architecture"] == {"name": "mobilenet-v2", "settings": {"classes": 50}}
    (tiny_core50 / "mobilenet_v2_imagenet1k_v1.safetensors").unlink()
    assert load_expert(tmp_path / "experts" / "expert-1.json").outputs == tuple(range(50))


def test_weights_for_another_architecture_are_refused() -> None:
    scenario = attrs.evolve(scenarios.load("digits-nc"), pretrained=True)
    with pytest.raises(SettingError, match="mobilenet-v2"):
        scenario.make_module(0)


def test_replay_of_bytes_is_in_pixel_units(tiny_cifar10: Path) -> None:
    del tiny_cifar10
    source = scenarios.ScenarioSource("cifar10-nc:epochs=1", 4)
    scenario = scenarios.load("cifar10-nc", 4)
    part = scenario.experiences[1]
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    expert = Expert(module, part.classes, scenario.image_shape)
    samples = Replay(source)(expert, 4, 0, GenerationContext(experience=2))
    assert samples.images.dtype == torch.float32
    wanted = {image.numpy().tobytes() for image in part.train.images}
    assert {(image * 255).round().to(torch.uint8).numpy().tobytes() for image in samples.images} <= wanted


@pytest.mark.parametrize(("name", "where"), [("cifar10-nc", "cifar-10-batches-py"), ("core50-ni", "core50_128x128")])
def test_absent_data_are_typed_errors_that_say_where_they_should_be(name: str, where: str) -> None:
    with pytest.raises(DataError, match=rf"{where}.*EXML_DATA"):
        scenarios.load(name)


def test_descriptions_say_what_the_scenarios_are(
    tiny_cifar10: Path, tiny_core50: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del tiny_cifar10, tiny_core50
    said = {name: scenarios.describe(name) for name in (*CIFAR10, *CORE50)}
    monkeypatch.setattr("exml.scenarios.registry._DESCRIPTIONS", {})
    for name, text in said.items():
        dataset = "CIFAR-10" if name in CIFAR10 else "CORe50"
        assert f"{scenarios.describe(name)}; {dataset}" == text
