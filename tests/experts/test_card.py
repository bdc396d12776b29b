"""Experts on disk: what is written comes back, and every fault is named with its file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exml.core.errors import ExpertError, UnknownNameError
from exml.experts import Expert, ExpertCard, load_expert, read_card, save_expert
from exml.models import ConvNet


@pytest.fixture
def expert() -> Expert:
    settings: Any = {"outputs": (3, None, 7, 1), "mean": (0.25, 0.5), "std": (0.5, 1 / 3), "task": 1, "name": "zebra"}
    return Expert(ConvNet(2, 4, 4, widths=(3,)), (7, 3), (2, 4, 4), **settings)


def change(card: Path, **values: Any) -> None:
    card.write_text(json.dumps({**json.loads(card.read_text()), **values}))


def test_an_expert_comes_back(expert: Expert, tmp_path: Path) -> None:
    card = save_expert(expert, tmp_path / "new", order=4, accuracy=0.5, training={"epochs": 3})
    assert card == tmp_path / "new" / "zebra.json"
    loaded = load_expert(card)
    fields = ("classes", "image_shape", "outputs", "mean", "std", "task", "name")
    assert [getattr(loaded, field) for field in fields] == [getattr(expert, field) for field in fields]
    assert loaded.fingerprint() == expert.fingerprint()
    assert not loaded.module.training
    images = torch.rand(3, 2, 4, 4)
    assert torch.equal(loaded.logits(images), expert.module.eval()(expert.normalize(images)))
    read = read_card(card)
    assert (read.order, read.accuracy, read.training) == (4, 0.5, {"epochs": 3})


def test_the_files_are_plain_json_and_safetensors(expert: Expert, tmp_path: Path) -> None:
    card = save_expert(expert, tmp_path, "other")
    written = json.loads(card.read_text())
    weights = tmp_path / "other.safetensors"
    assert written["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert written["architecture"]["name"] == "conv-net"
    assert written["outputs"] == [3, None, 7, 1]
    assert written["version"] == 1
    assert load_file(weights).keys() == expert.module.state_dict().keys()


def test_loading_uses_nobodys_random_numbers(expert: Expert, tmp_path: Path) -> None:
    card = save_expert(expert, tmp_path)
    before = torch.get_rng_state()
    load_expert(card)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_card_written_by_hand_needs_three_fields(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text('{"name": "a", "classes": [0, 1], "image_shape": [1, 2, 2]}')
    with pytest.raises(ExpertError, match="give load_expert the module"):
        load_expert(tmp_path / "a.json")
    empty = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    loaded = load_expert(tmp_path / "a.json", empty)
    assert loaded.module is empty
    assert loaded.outputs == (0, 1)
    assert torch.equal(empty[1].weight, module[1].weight)
    assert ExpertCard("a", (3, 1), (1, 2, 2)).expert(nn.Flatten()).outputs == (3, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "grey"}, "colour"),
        ({"classes": "37"}, "classes"),
        ({"classes": [3, 7.5]}, r"classes\[1\]"),
        ({"classes": [3, 3]}, "each class id once"),
        ({"classes": [3, 8]}, "output unit for every class"),
        ({"image_shape": [2, 4]}, "image_shape"),
        ({"mean": [0.1, "x"]}, r"mean\[1\]"),
        ({"std": [0.1, float("nan")]}, "NaN"),
        ({"task": "first"}, "task"),
        ({"accuracy": 99.0}, "accuracy"),
        ({"training": [1]}, "training"),
        ({"architecture": "conv-net"}, "architecture"),
        ({"version": 2}, "version"),
        ({"kind": "l2-norm"}, "kind"),
        ({"name": None}, "name"),
    ],
)
def test_a_faulty_card_is_named_with_the_fault(
    expert: Expert, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    card = save_expert(expert, tmp_path)
    change(card, **values)
    with pytest.raises(ExpertError, match=message) as raised:
        read_card(card)
    assert str(card) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"name": "a"}', "\ud800"])
def test_what_is_no_card_is_named(text: str, tmp_path: Path) -> None:
    card = tmp_path / "a.json"
    card.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ExpertError, match=r"a\.json"):
        read_card(card)
    with pytest.raises(ExpertError, match=r"b\.json"):
        read_card(tmp_path / "b.json")


@pytest.mark.parametrize("keep", [None, 0, 4, 40, -1])
@pytest.mark.parametrize("checked", [True, False])
def test_absent_and_truncated_weights_are_named(
    expert: Expert, tmp_path: Path, keep: int | None, checked: bool
) -> None:
    card, weights = save_expert(expert, tmp_path), tmp_path / "zebra.safetensors"
    weights.unlink() if keep is None else weights.write_bytes(weights.read_bytes()[:keep])
    if not checked:
        change(card, sha256=None)
    with pytest.raises(ExpertError, match=r"zebra\.safetensors"):
        load_expert(card)


def test_weights_changed_by_one_bit_are_found(expert: Expert, tmp_path: Path) -> None:
    card, weights = save_expert(expert, tmp_path), tmp_path / "zebra.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ExpertError, match="SHA-256"):
        load_expert(card)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"name": "conv-net", "settings": {"channels": 2, "classes": 4, "image_size": 4}}, "size mismatch|Missing key"),
        ({"name": "conv-net", "settings": {"channels": 2}}, "image_size"),
        ({"name": "konv-net", "settings": {}}, "one of"),
    ],
)
def test_an_architecture_that_does_not_fit_is_named(
    expert: Expert, tmp_path: Path, architecture: dict[str, Any], message: str
) -> None:
    card = save_expert(expert, tmp_path)
    change(card, architecture=architecture)
    with pytest.raises(ExpertError, match=message) as raised:
        load_expert(card)
    assert str(card) in str(raised.value)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(expert: Expert, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="register"):
        save_expert(Expert(nn.Flatten(), (0,), (1, 1, 1)), tmp_path)
    for name in ("", "a/b", "/a"):
        with pytest.raises(ExpertError, match="file"):
            save_expert(expert, tmp_path, name)
    for value in (float("nan"), torch.zeros(1)):
        with pytest.raises(ExpertError, match="JSON"):
            save_expert(expert, tmp_path, training={"loss": value})
    assert list(tmp_path.iterdir()) == []
