"""The paper's scenarios on small copies of the formats of their files, and on the real MNIST if it is available."""

import inspect
import itertools
import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import URLError

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.datasets import MNIST

from exml import cli, scenarios
from exml.core.errors import DataError, SettingError, UnknownNameError
from exml.core.samples import Samples
from exml.datasets import cifar10, core50, fashion_mnist, mnist
from exml.experts import Expert, ExpertTraining, load_expert
from exml.generators import Replay
from exml.models import build
from exml.protocols import GenerationContext
from exml.recipes import for_scenario
from exml.scenarios.paper import _load, _padded

MNIST_NAMES = ("mnist-joint", "mnist-nc")
FASHION = ("fashion-joint", "fashion-nc")
CIFAR10 = ("cifar10-joint", "cifar10-nc", "cifar10-mt")
CORE50 = ("core50-joint", "core50-nc", "core50-ni")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in EXML_DATA, next to a cache. Nothing that a test loads is left for another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    _load.cache_clear()
    for dataset in (cifar10, core50):
        inspect.unwrap(dataset).__globals__["_parts"].cache_clear()


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file as http://yann.lecun.com/exdb/mnist describes it."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def tiny_mnist(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MNIST and Fashion-MNIST of 100 training images and 20 test images, no two alike; 3 per class for validation."""
    draws = np.random.default_rng(0)
    for folder in (data / "MNIST" / "raw", data / "FashionMNIST" / "raw"):
        folder.mkdir(parents=True)
        for part, count in (("train", 100), ("t10k", 20)):
            write_idx(folder / f"{part}-images-idx3-ubyte", draws.integers(0, 256, (count, 28, 28)))
            write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    monkeypatch.setitem(inspect.unwrap(mnist).__globals__, "VALIDATION", 3)
    return data


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


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def files(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """All images of a file as they should come out: 32x32, uint8."""
    dataset = MNIST(folder, train=train)
    images = torch.zeros(len(dataset.data), 1, 32, 32, dtype=torch.uint8)
    images[:, 0, 2:30, 2:30] = dataset.data
    return images, dataset.targets


def parts_of(name: str) -> Mapping[str, Samples]:
    if name in CIFAR10:
        return cifar10()
    return (
        scenarios.mnist_images() if name in MNIST_NAMES else {part: _padded(s) for part, s in fashion_mnist().items()}
    )


def test_the_parts_are_all_images_of_the_files_once(tiny_mnist: Path) -> None:
    parts = scenarios.mnist_images()
    images, labels = files(tiny_mnist, train=True)
    assert as_set(parts["train"].images) | as_set(parts["validation"].images) == as_set(images)
    assert (len(parts["train"]), len(parts["validation"])) == (70, 30)
    assert parts["validation"].labels.bincount().tolist() == [3] * 10
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for part in ("train", "validation"):
        expected = [label_of[image.numpy().tobytes()] for image in parts[part].images]
        assert parts[part].labels.tolist() == expected
    tested, classes = files(tiny_mnist, train=False)
    assert torch.equal(parts["test"].images, tested)
    assert torch.equal(parts["test"].labels, classes)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("name", [*MNIST_NAMES, *FASHION, *CIFAR10])
@pytest.mark.usefixtures("tiny_mnist", "tiny_cifar10")
def test_every_image_of_a_part_is_in_one_experience(
    monkeypatch: pytest.MonkeyPatch, name: str, split: scenarios.Split
) -> None:
    monkeypatch.setitem(inspect.unwrap(mnist).__globals__, "VALIDATION", 1)
    scenario, parts = scenarios.load(name, 3, split), parts_of(name)
    for chosen, part in (("train", "train"), ("test", split)):
        found = [as_set(getattr(experience, chosen).images) for experience in scenario.experiences]
        assert sum(map(len, found)) == len(set().union(*found)) == len(parts[part])
        assert set().union(*found) == as_set(parts[part].images)
    for experience in scenario.experiences:
        for samples in (experience.train, experience.test):
            assert tuple(samples.labels.unique().tolist()) == experience.classes
    assert [len(part.classes) for part in scenario.experiences] == ([10] if name.endswith("joint") else [2] * 5)
    assert (scenario.tasks is not None) == (name == "cifar10-mt")
    pixels = (parts["train"].images.double() / 255).transpose(0, 1).flatten(1).numpy()
    assert scenario.mean == pytest.approx(tuple(pixels.mean(1)))
    assert scenario.std == pytest.approx(tuple(pixels.std(1)))
    assert scenarios.load(name, 3, split).experiences is scenario.experiences


@pytest.mark.usefixtures("tiny_mnist", "tiny_cifar10")
@pytest.mark.parametrize("name", [*MNIST_NAMES, *FASHION, *CIFAR10])
def test_the_experts_are_trained_as_appendix_a_says(name: str) -> None:
    scenario = scenarios.load(name)
    epochs = 20 if name in ("mnist-nc", "fashion-nc") else 100
    assert scenario.training == ExpertTraining(
        epochs=epochs, batch_size=32, learning_rate=0.01, momentum=0.9, weight_decay=5e-4
    )
    resnet = {"name": "slim-resnet18", "settings": {"channels": 3, "classes": 10, "width": 20}}
    lenet = {"name": "lenet5", "settings": {"channels": 1, "classes": 10, "image_size": 32}}
    assert scenario.architecture == (resnet if name in CIFAR10 else lenet)
    module, again = (scenario.make_module(0, "experts") for _ in range(2))
    assert module(torch.zeros(2, *scenario.image_shape)).shape == (2, 10)
    assert all(torch.equal(left, right) for left, right in zip(module.parameters(), again.parameters(), strict=True))


def test_a_scenario_is_read_once_and_belongs_to_its_folder(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scenarios.load("mnist-nc", 1)
    assert scenarios.load("mnist-nc", 1) is first
    assert scenarios.load("mnist-nc", 2) is not first
    assert [e.classes for e in scenarios.load("mnist-nc", 2).experiences] != [e.classes for e in first.experiences]
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "MNIST").mkdir(parents=True)
    (tiny_mnist / "MNIST" / "raw").rename(elsewhere / "MNIST" / "raw")
    monkeypatch.setenv("EXML_DATA", str(elsewhere))
    assert scenarios.load("mnist-nc", 1) is not first


def test_lists_read_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "nowhere"))
    assert cli.main(["scenarios"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^mnist-nc +5 experiences of 2 classes \(10 in all\), images 1x32x32; MNIST *$", said, re.M)
    with pytest.raises(UnknownNameError, match="mnist-nc, mnist-joint"):
        scenarios.describe("mnist")


@pytest.mark.usefixtures("tiny_cifar10")
def test_the_three_streams_of_cifar10_have_one_order_of_classes() -> None:
    nc, mt = (scenarios.load(name, 3) for name in ("cifar10-nc", "cifar10-mt"))
    assert [part.classes for part in nc.experiences] == [part.classes for part in mt.experiences]
    assert mt.tasks == tuple(part.classes for part in mt.experiences)


@pytest.mark.usefixtures("tiny_core50")
def test_core50_nc_has_ten_things_and_then_five_each_time() -> None:
    orders: set[tuple[tuple[int, ...], ...]] = set()
    for seed in (0, 1):
        scenario = scenarios.load("core50-nc", seed)
        orders.add(tuple(part.classes for part in scenario.experiences))
        assert [len(part.classes) for part in scenario.experiences] == [10, 5, 5, 5, 5, 5, 5, 5, 5]
        assert sorted(itertools.chain(*(part.classes for part in scenario.experiences))) == list(range(50))
        for part in scenario.experiences:
            assert set(part.train.labels.tolist()) == set(part.test.labels.tolist()) == set(part.classes)
    assert len(orders) == 2


@pytest.mark.usefixtures("tiny_core50")
def test_core50_ni_has_a_training_session_each_time_in_the_order_of_the_seed() -> None:
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


@pytest.mark.usefixtures("tiny_cifar10")
def test_replay_of_bytes_is_in_pixel_units() -> None:
    source = scenarios.ScenarioSource("cifar10-nc:epochs=1", 4)
    scenario = scenarios.load("cifar10-nc", 4)
    part = scenario.experiences[1]
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    expert = Expert(module, part.classes, scenario.image_shape)
    samples = Replay(source)(expert, 4, 0, GenerationContext(experience=2))
    assert samples.images.dtype == torch.float32
    wanted = {image.numpy().tobytes() for image in part.train.images}
    assert {(image * 255).round().to(torch.uint8).numpy().tobytes() for image in samples.images} <= wanted


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("mnist-nc", "MNIST in .*raw.*not found"),
        ("fashion-nc", "FashionMNIST in .*raw.*not found"),
        ("cifar10-nc", "cifar-10-batches-py"),
        ("core50-ni", "core50_128x128"),
    ],
)
def test_absent_data_are_typed_errors_and_a_named_folder_is_left_alone(data: Path, name: str, where: str) -> None:
    with pytest.raises(DataError, match=rf"{where}.*EXML_DATA"):
        scenarios.load(name)
    assert list(data.iterdir()) == []


@pytest.mark.usefixtures("tiny_mnist", "tiny_cifar10", "tiny_core50")
def test_descriptions_say_what_the_scenarios_are(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar10": "CIFAR-10", "core50": "CORe50"}
    said = {name: scenarios.describe(name) for name in (*MNIST_NAMES, *FASHION, *CIFAR10, *CORE50)}
    monkeypatch.setattr("exml.scenarios.registry._DESCRIPTIONS", {})
    assert {name: f"{scenarios.describe(name)}; {titles[name.split('-')[0]]}" for name in said} == said


def test_without_data_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.delenv("EXML_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"exml.MNIST.raw.*no network.*set EXML_DATA"):
        scenarios.load("mnist-joint")


def test_the_cache_is_found_without_a_name(tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache" / "exml").mkdir(parents=True)
    (tiny_mnist / "MNIST").rename(tmp_path / "cache" / "exml" / "MNIST")
    monkeypatch.delenv("EXML_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(scenarios.load("mnist-joint").experiences[0].train) == 70


@pytest.mark.parametrize("damage", ["short", "empty", "of another type", "no images"])
def test_files_that_are_not_mnist_are_typed_errors(tiny_mnist: Path, damage: str) -> None:
    images = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(
        {"short": whole[:-1], "empty": b"", "of another type": b"\x00\x00\x0d" + whole[3:], "no images": whole[:8]}[
            damage
        ]
    )
    with pytest.raises(DataError, match="EXML_DATA"):
        scenarios.load("mnist-nc")


@pytest.mark.usefixtures("tiny_mnist")
def test_the_source_gives_the_training_images() -> None:
    experience = scenarios.load("mnist-nc", 4).experiences[1]
    images, labels = scenarios.ScenarioSource("mnist-nc", 4)(2)
    assert torch.equal(images, experience.train.images)
    assert labels is not None
    assert torch.equal(labels, experience.train.labels)
    assert for_scenario("replay", "mnist-nc", 4).build().generator.source == scenarios.ScenarioSource("mnist-nc", 4)
