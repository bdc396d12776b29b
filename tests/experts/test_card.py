"""Experts on disk: what is written comes back, and every fault is named with its file."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from exml.core.errors import CheckpointError, ExpertError, UnknownNameError
from exml.experts import Expert, ExpertCard, load_expert, read_card, read_cards, save_expert
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
        ({"std": [0.1, float("nan")]}, "finite numbers"),
        ({"task": "first"}, "task"),
        ({"accuracy": 99.0}, "accuracy"),
        ({"training": [1]}, "training"),
        ({"architecture": ["conv-net"]}, "architecture"),
        ({"version": 2}, "version"),
        ({"kind": "l2-norm"}, "kind"),
        ({"name": None}, "name"),
        ({"name": "x" * 1001}, "at most 1000 characters"),
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
        (
            {"name": "conv-net", "settings": {"channels": 2, "classes": 4, "image_size": 4}},
            r"no features\.4\.bias \[32\].*features\.0\.weight \[3, 2, 3, 3\] instead of",
        ),
        ({"name": "conv-net", "settings": {"width": 3}}, "widths"),
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


@pytest.mark.parametrize(
    "values",
    [
        {"classes": [0, 2**17]},
        {"outputs": [3, None, 7, 2**17]},
        {"image_shape": [1, 2**12, 2**11]},
        {"image_shape": [2, -4, -4]},
        {"task": -1},
        {"task": 10**30},
        {"std": [10**400]},
        {"name": "\ud800"},
        {"training": {"a": [[[]]] * 2, "b": json.loads("[" * 60 + "]" * 60)}},
        {"version": True},
        {"accuracy": True},
    ],
    ids=lambda values: str(values)[:40],
)
def test_a_card_has_limits(expert: Expert, tmp_path: Path, values: dict[str, Any]) -> None:
    card = save_expert(expert, tmp_path)
    change(card, **values)
    with pytest.raises(ExpertError, match=r"zebra\.json"):
        read_card(card)


@pytest.mark.parametrize("end", ["json", "safetensors"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/etc")]
)
def test_only_regular_files_of_the_folder_are_opened(expert: Expert, tmp_path: Path, end: str, make: Any) -> None:
    card = save_expert(expert, tmp_path)
    (tmp_path / f"zebra.{end}").unlink()
    make(tmp_path / f"zebra.{end}")
    with pytest.raises(ExpertError, match=rf"zebra\.{end}.*(regular file|leads out)"):
        load_expert(card)


@pytest.mark.parametrize("settings", [{"widths": [30_000, 30_000]}, {"classes": 10**9}, {"image_size": 10**7}])
def test_a_large_architecture_takes_no_memory(expert: Expert, tmp_path: Path, settings: dict[str, Any]) -> None:
    card = save_expert(expert, tmp_path)
    architecture = json.loads(card.read_text())["architecture"]
    change(card, architecture={**architecture, "settings": {**architecture["settings"], **settings}})
    with pytest.raises(ExpertError, match=r"zebra\.json, got (a larger|weights with)"):
        load_expert(card)


def test_weights_of_another_kind_are_refused(expert: Expert, tmp_path: Path) -> None:
    card = save_expert(expert, tmp_path)
    change(card, sha256=None)
    weights = tmp_path / "zebra.safetensors"
    state = load_file(weights)
    save_file({name: tensor.to(torch.int64) for name, tensor in state.items()}, weights)
    with pytest.raises(ExpertError, match=r"torch.float32 for .*got torch.int64"):
        load_expert(card)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_prefix_of_a_wrapper_is_removed(expert: Expert, tmp_path: Path, prefix: str) -> None:
    card = save_expert(expert, tmp_path)
    change(card, sha256=None)
    weights = tmp_path / "zebra.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(weights).items()}, weights)
    for module in (None, ConvNet(2, 4, 4, widths=(3,))):
        assert load_expert(card, module).fingerprint() == expert.fingerprint()


def test_an_existing_expert_is_never_overwritten_unasked(expert: Expert, tmp_path: Path) -> None:
    card = save_expert(expert, tmp_path)
    before = card.read_bytes()
    for gone in (None, "zebra.json"):
        if gone is not None:
            (tmp_path / gone).unlink()
        with pytest.raises(ExpertError, match="overwrite=True"):
            save_expert(expert, tmp_path)
    assert save_expert(expert, tmp_path, overwrite=True).read_bytes() == before


def changed(module: nn.Module, kind: str) -> nn.Module:
    if kind == "compiled":
        return torch.compile(module, backend="eager")
    if kind == "a compiled part":
        module.features = torch.compile(module.features, backend="eager")
    if kind == "parallel":
        return nn.DataParallel(module)
    if kind == "half":
        return module.half()
    if kind == "channels last":
        return module.to(memory_format=torch.channels_last)
    if kind == "tied":
        module.features[1].weight = module.features[1].bias
    if kind == "views":
        module.classifier.weight = nn.Parameter(torch.rand(8, 12)[:4])
    return module


@pytest.mark.parametrize(
    "kind", ["compiled", "a compiled part", "parallel", "half", "channels last", "tied", "views", "plain"]
)
def test_what_is_saved_loads(tmp_path: Path, kind: str) -> None:
    module = changed(ConvNet(2, 4, 4, widths=(3,)), kind)
    card = save_expert(Expert(module, (0, 1, 2, 3), (2, 4, 4)), tmp_path)
    loaded = load_expert(card).module.state_dict()
    assert loaded.keys() == ConvNet(2, 4, 4, widths=(3,)).state_dict().keys()
    for mine, theirs in zip(loaded.values(), module.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs.to(mine.dtype))


class WithState(nn.Identity):
    def get_extra_state(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("kind", ["weight norm", "another head", "meta", "sparse", "complex", "extra state"])
def test_what_would_not_load_is_refused_when_saved(tmp_path: Path, kind: str) -> None:
    module = ConvNet(2, 4, 4, widths=(3,))
    if kind == "weight norm":
        nn.utils.parametrizations.weight_norm(module.classifier)
    elif kind == "another head":
        module.classifier = nn.Linear(12, 9)
    elif kind == "meta":
        module.to("meta")
    elif kind == "sparse":
        module.classifier.weight = nn.Parameter(module.classifier.weight.detach().to_sparse())
    elif kind == "complex":
        module.classifier.weight = nn.Parameter(torch.zeros(4, 12, dtype=torch.complex64))
    else:
        module.features.append(WithState())
    with pytest.raises(ExpertError, match="expert 'expert'"):
        save_expert(Expert(module, (0, 1, 2, 3), (2, 4, 4)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["10²", "a.", "a b", "a\nb", "a\x1b[31m", "x" * 243, os.fsdecode(b"\xe9"), "٣", "-rf"])
def test_any_name_that_the_system_allows_works(expert: Expert, tmp_path: Path, name: str) -> None:
    save_expert(expert, tmp_path, name)
    (tmp_path / f"._{name[:100]}.json").write_bytes(b"\0\5\x16\7")  # hidden, as macOS makes them
    assert list(read_cards(tmp_path)) == [name]
    assert load_expert(tmp_path / f"{name}.json").fingerprint() == expert.fingerprint()


def test_what_cannot_be_saved_is_refused_before_anything_is_written(expert: Expert, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="register"):
        save_expert(Expert(nn.Flatten(), (0,), (1, 1, 1)), tmp_path)
    for name in ("", ".", "..", ".a", "a/b", "/a", "a\0"):
        with pytest.raises(ExpertError, match="file"):
            save_expert(expert, tmp_path, name)
    for value in (float("nan"), torch.zeros(1)):
        with pytest.raises(ExpertError, match="JSON"):
            save_expert(expert, tmp_path, training={"loss": value})
    with pytest.raises(CheckpointError, match="too long"):
        save_expert(expert, tmp_path, "x" * 260)
    with pytest.raises(ExpertError, match="valid text"):
        save_expert(attrs.evolve(expert, name="\ud800"), tmp_path, "a")
    assert list(tmp_path.iterdir()) == []
