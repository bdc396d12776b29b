"""Experts of strangers: a file and a small card are enough, and what is wrong with them is one clear error."""

import argparse
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.datasets import MNIST, FashionMNIST

import exml
from exml import ExpertProfile
from exml.core.errors import ExmlWarning, ExpertError
from exml.experts import entries, load_expert, read_card, read_cards, state_dict
from exml.experts._unpickle import Ignored, weights_of
from exml.experts.entries import entry_of
from exml.experts.state_dict import read_checkpoint
from exml.models import ConvNet, build

CARD = {"architecture": "conv-net", "labels": ["cat", "dog", "eel"], "image_shape": (1, 8, 8)}


@pytest.fixture
def module() -> nn.Module:
    return ConvNet(1, 3, 8)


def same(expert: exml.Expert, module: nn.Module) -> bool:
    mine, theirs = expert.module.state_dict(), module.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# ---- which files are experts


def test_a_folder_lists_its_experts(tmp_path: Path) -> None:
    files = ["e10.pth", "e2.safetensors", "e2.yaml", "a.b.pt", "n.onnx", "p.pt2", "t.ts", "c.ckpt", "r.th", "z.pth.tar"]
    for name in [*files, "alone.json", ".e3.safetensors", "README.md", "photo.png", "labels.txt", "model.bin"]:
        (tmp_path / name).touch()
    (tmp_path / "their model").mkdir()
    (tmp_path / "their model" / "config.json").touch()
    (tmp_path / "photos").mkdir()
    found = entries(tmp_path)
    names = ["a.b", "alone", "c", "e2", "e10", "n", "p", "r", "t", "their model", "z"]
    assert list(found) == names
    assert found["e2"].card == tmp_path / "e2.yaml"
    assert found["alone"].state()[0] is None
    kinds = {found[name].format for name in ("e10", "a.b", "c", "r", "z")}
    assert kinds == {"state-dict"}
    assert {found[name].format for name in ("p", "t")} == {"exported"}
    for entry in found.values():
        assert entry_of(entry.path) == entry_of(entry.path.with_name(entry.name)) == entry
    assert entry_of(tmp_path / "e2.yaml") == found["e2"]
    before = found["their model"].state()
    (tmp_path / "their model" / "model.safetensors").write_bytes(b"x")
    assert found["their model"].state() != before


@pytest.mark.parametrize("files", [["a.pth", "a.safetensors"], ["a.pth", "a.json", "a.yml"]])
def test_one_name_is_one_expert(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).touch()
    for read in (lambda: entries(tmp_path), lambda: entry_of(tmp_path / "a")):
        with pytest.raises(ExpertError, match=rf"{files[-2]} and {files[-1]}; remedy: rename"):
            read()


@pytest.mark.parametrize(("name", "got"), [("absent", "no such file"), ("notes.txt", "a file of another kind")])
def test_what_is_no_expert_is_named(tmp_path: Path, name: str, got: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ExpertError, match=rf"{name}, got {got}; .*\.safetensors"):
        exml.load(tmp_path / name)


# ---- cards


def test_a_card_says_what_the_file_cannot(tmp_path: Path, module: nn.Module) -> None:
    save_file(module.state_dict(), tmp_path / "pets.safetensors")
    (tmp_path / "pets.yaml").write_text("labels: [cat, dog, eel]\nimage_shape: [1, 8, 8]\narchitecture: conv-net\n")
    card = read_card(tmp_path / "pets.yaml")
    assert (card.name, card.classes, card.labels) == ("pets", (0, 1, 2), ("cat", "dog", "eel"))
    assert card.architecture["settings"] == {"channels": 1, "classes": 3, "image_size": 8}
    expert = exml.load(tmp_path / "pets", labels=["a", "b", "c"], name="animals", mean=[0.5])
    assert (expert.labels, expert.name, expert.mean) == (("a", "b", "c"), "animals", (0.5,))
    assert same(expert, module)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no labels.*add it to"),
        ({"image_shape": None}, r"no image_shape: \[channels, height, width\]"),
        ({"labels": None, "image_shape": None}, "no labels.* and no image_shape"),
        ({"lables": ["a"]}, "did you mean 'labels'"),
        ({"labels": ["cat", "dog"]}, "3 output units for 2 classes.*list the labels of all units"),
        ({"labels": ["cat", "dog"], "architecture": None}, "register.*module"),
        ({"architecture": "torchvision/resnet19"}, r"torchvision, such as resnet1\d"),
        ({"architecture": "conv-nett"}, "conv-net"),
        ({"architecture": {"name": "conv-net", "widths": [4]}}, "weights with an unexpected|instead of"),
        ({"image_shape": [1, 16, 16]}, r"classifier\.weight \[3, 128\] instead of \[3, 512\]"),
        ({"outputs": [0, 1, 2, None]}, "3 output units for 4 classes"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_card_is_one_error(
    tmp_path: Path, module: nn.Module, changes: dict[str, Any], message: str
) -> None:
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    card = {name: value for name, value in {**CARD, **changes}.items() if value is not None}
    with pytest.raises(ExpertError, match=message) as raised:
        exml.load(tmp_path / "a.safetensors", **card)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["labels: [a", "- a", "label: [a, b]", "labels: a", "labels: [a, a, b]"])
def test_a_faulty_sidecar_is_named(tmp_path: Path, module: nn.Module, text: str) -> None:
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(ExpertError, match=r"a\.yml"):
        load_expert(tmp_path / "a.safetensors", module)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cifar-resnet", {"blocks": 5}), ("torchvision/squeezenet1_1", {}), ("torchvision/vgg11", {})],
)
def test_common_architectures_are_recognized(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    module = build(name, classes=2, channels=3, **settings)
    save_file({f"module.{part}": tensor for part, tensor in module.state_dict().items()}, tmp_path / "a.safetensors")
    expert = exml.load(tmp_path / "a.safetensors", labels=["a", "b"], image_shape=(3, 32, 32))
    assert same(expert, module)


# ---- state dicts


def test_a_state_dict_of_a_wrapped_module(tmp_path: Path, module: nn.Module) -> None:
    state = {f"module._orig_mod.{name}": tensor for name, tensor in module.double().state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    notes = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "epoch": 3}
    torch.save({"ema": other, "model": state, "optimizer": optimizer, **notes}, tmp_path / "a.pth")
    with pytest.warns(ExmlWarning, match="got model, which is loaded, and ema"):
        expert = exml.load(tmp_path / "a.pth", **CARD)
    assert same(expert, module.float())
    (tmp_path / "a.yaml").write_text("labels: [cat, dog, eel]\nimage_shape: [1, 8, 8]\narchitecture: conv-net\n")
    assert list(read_cards(tmp_path)) == ["a"]
    assert ExpertProfile.from_folder(tmp_path).experts[0].running_statistics


def test_a_state_dict_of_an_old_version_of_pytorch(tmp_path: Path, module: nn.Module) -> None:
    state = {name: part for name, part in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(exml.load(tmp_path / "a.pt", **CARD), module)


@pytest.mark.parametrize(
    ("checkpoint", "keys", "left"),
    [
        ({"w": 1}, [], []),
        ({"state_dict": {"w": 1}, "epoch": 2}, ["state_dict"], []),
        ({"ema": {"w": 1}, "net": {"w": 1}}, ["net"], ["ema"]),
        ({"ema": {"w": 1}}, ["ema"], []),
        ({"model": {"state_dict": {"w": 1}}, "params": {"lr": "0.1"}}, ["model", "state_dict"], []),
        ({"classifier": {"w": 1}, "optimizer": {"state": {}}}, ["classifier"], []),
    ],
    ids=str,
)
def test_weights_are_found_in_checkpoints(checkpoint: Any, keys: list[str], left: list[str]) -> None:
    def tensors(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: tensors(value) for name, value in part.items()}
        return torch.ones(2) if part == 1 else Ignored()

    weights, used, others = weights_of(tensors(checkpoint))
    assert list(weights) == ["w"]
    assert (used, others) == (keys, left)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def bomb(path: Path, state: dict[str, torch.Tensor]) -> None:
    """A small file whose records become large."""
    torch.save({**state, "x": torch.zeros(2**28 + 2**26)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(path.with_name("b"), "w", zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    path.with_name("b").rename(path)
    assert path.stat().st_size < 2**22


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hostile", r"posix\.system.*execute code; remedy: save module\.state_dict"),
        ("module", r"exml\.models\.architectures\.ConvNet, such as a pickled module.*save module\.state_dict"),
        ("truncated", "damaged file"),
        ("list", "a list without tensors by name"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict(tmp_path: Path, module: nn.Module, kind: str, message: str) -> None:
    path, state = tmp_path / "a.pth", module.state_dict()
    torch.save({"hostile": {**state, "x": Hostile(tmp_path / "touched")}, "module": module}.get(kind, [1]), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExpertError, match=rf"a\.pth, got .*{message}"):
        exml.load(path, **CARD)
    assert not (tmp_path / "touched").exists()


def test_a_bomb_is_refused_by_a_process_that_reads_one_file_after_the_other(tmp_path: Path, module: nn.Module) -> None:
    torch.save(module.state_dict(), tmp_path / "a.pth")
    bomb(tmp_path / "b.pth", module.state_dict())
    read_checkpoint(tmp_path / "a.pth")
    process = state_dict._process
    assert read_checkpoint(tmp_path / "b.pth", values=False)["x"].is_meta
    assert state_dict._process is process
    with pytest.raises(ExpertError, match=r"b\.pth, got .*more than .* MiB of memory"):
        read_checkpoint(tmp_path / "b.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())
    assert state_dict._process is not process  # the old one may be damaged
    with pytest.raises(ExpertError, match="a request to stop"):
        read_checkpoint(tmp_path / "a.pth", None, lambda: True)


def test_the_weights_of_a_checkpoint_are_chosen_by_the_card(tmp_path: Path, module: nn.Module) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    torch.save({"model": zeros, "averages": {"ema": module.state_dict()}, "epoch": 3}, tmp_path / "a.pth")
    assert same(exml.load(tmp_path / "a.pth", **CARD, weights="averages.ema"), module)
    card = "labels: [cat, dog, eel]\nimage_shape: [1, 8, 8]\narchitecture: conv-net\nweights: "
    (tmp_path / "a.yaml").write_text(card + "averages")
    assert same(load_expert(tmp_path / "a.pth"), module)
    for chosen, keys in {"ema": "model, averages", "model.ema": "no weights by name", "averages.x": "ema"}.items():
        (tmp_path / "a.yaml").write_text(card + chosen)
        with pytest.raises(
            ExpertError, match=rf"weights '{chosen}' in the checkpoint.*, got .*{keys}; remedy: correct"
        ):
            load_expert(tmp_path / "a.pth")
    save_file(module.state_dict(), tmp_path / "b.safetensors")
    with pytest.raises(ExpertError, match=r"on the card of a checkpoint .* remedy: remove it"):
        exml.load(tmp_path / "b.safetensors", **CARD, weights="ema")


# ---- the experts of shared data

DIGITS = "classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\nimage_shape: [1, 28, 28]\n"
CIFAR = """\
labels: [airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck]
image_shape: [3, 32, 32]
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
"""
SMALL = """\
architecture:
  name: sequential
  layers:
    - conv2d: [1, 16, 4, 2, 1]
    - relu
    - conv2d: [16, 32, 4, 2, 1]
    - relu
    - flatten
    - linear: [1568, 100]
    - relu
    - linear: [100, 10]
"""
LENET = """\
architecture:
  name: sequential
  layers:
    conv1: {conv2d: {in_channels: 1, out_channels: 32, kernel_size: 3, padding: 1}}
    relu1: relu
    pool1: {max_pool2d: 2}
    conv2: {conv2d: [32, 64, 3, 1, 1]}
    relu2: relu
    pool2: {max_pool2d: 2}
    flatten: flatten
    linear1: {linear: [3136, 200]}
    relu3: relu
    linear2: {linear: [200, 10]}
"""
UNPADDED = SMALL.replace("2, 1]", "2]").replace("1568", "800") + "mean: [0.1307]\nstd: [0.3081]\n"
STRANGERS = {
    "resnet20-12fca82f": (CIFAR, 91.73),
    "resnet32-d509ac18": (CIFAR + "architecture: {name: cifar-resnet, blocks: 5}\n", 92.63),
    "convexadv_mnist": (DIGITS + SMALL, 98.20),
    "convexadv_fashion_mnist": (DIGITS + SMALL, 78.27),
    "abcrown_mnist_conv_small_nat": (DIGITS + UNPADDED, 98.25),
    "mnist_lenet5_advtrained": (DIGITS + LENET, 98.64),
}
"""The card of each expert, and its accuracy on all test images."""


@pytest.mark.skipif("EXML_DATA" not in os.environ, reason="needs EXML_DATA, with the experts of other people")
@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_strangers_classify_as_they_did(tmp_path: Path, name: str, suffix: str) -> None:
    data, (card, accuracy) = Path(os.environ["EXML_DATA"]), STRANGERS[name]
    weights = load_file(data / "experts" / f"{name}.safetensors")
    path = tmp_path / f"{name}.{suffix}"
    torch.save({"state_dict": weights}, path) if suffix == "pth" else save_file(weights, path)
    path.with_suffix(".yaml").write_text(card)
    if name.startswith("resnet"):
        with np.load(data / "cifar10.npz") as arrays:
            images, labels = torch.from_numpy(arrays["x_test"][:1000]), torch.from_numpy(arrays["y_test"][:1000])
        images = images if images.shape[1] == 3 else images.permute(0, 3, 1, 2)
    else:
        test = (FashionMNIST if "fashion" in name else MNIST)(data, train=False)
        images, labels = test.data[:1000, None], test.targets[:1000]
    with torch.no_grad():
        right = load_expert(path).predicted_ids(images / 255) == labels
    assert 100 * right.float().mean().item() == pytest.approx(accuracy, abs=2)
