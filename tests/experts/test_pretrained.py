"""Students as folders: written in the layout of Hugging Face, and read again bit for bit."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

import exml
from exml.core.errors import ExpertError, UnknownNameError
from exml.experts import save_pretrained
from exml.models import ConvNet, Normalized, SlimResNet18

LABELS = ["cat", "d|o\ng", "*fish*"]
PROVENANCE = {
    "experts": [{"name": "a|b", "labels": ["cat"], "sha256": "0" * 64}, {"name": "c", "classes": [1, 2]}],
    "strategy": {"kind": "strategy"},
    "versions": {"exml": "1"},
    "verdict": "The student agrees.",
    "warning": "The ensemble may be better.",
}


def student(**changes: Any) -> exml.Expert:
    torch.manual_seed(0)
    module = Normalized(SlimResNet18(3, 3, width=2), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)).eval()
    return attrs.evolve(exml.Expert(module, labels=LABELS, image_shape=(3, 16, 20), name="pets"), **changes)


EXPERTS = {
    "normalized": student,
    "numbers": lambda: student(labels=None),
    "ids": lambda: student(labels=["a", "b"], classes=(7, 5), outputs=(5, None, 7)),
    "twice": lambda: student(mean=(0.1,), std=(2.0,)),
    "plain": lambda: exml.Expert(ConvNet(1, 3, 8), labels=LABELS, image_shape=(1, 8, 8), mean=(0.1,), std=(0.3,)),
    "wrapped": lambda: student(module=nn.DataParallel(student().module)),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_a_folder_is_the_expert_again(name: str, tmp_path: Path):
    expert = EXPERTS[name]()
    save_pretrained(expert, tmp_path / "merged")
    loaded = exml.load(tmp_path / "merged")
    images = torch.rand(3, *expert.image_shape)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if name == "twice" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(loaded.logits(images), expert.logits(images), **tolerance)
    kept = ("labels", "classes", "outputs", "image_shape", "task", "name")
    assert [getattr(loaded, part) for part in kept] == [getattr(expert, part) for part in kept]
    assert not isinstance(loaded.module, Normalized)


def test_the_files_say_what_hugging_face_expects(tmp_path: Path):
    save_pretrained(student(), tmp_path, provenance=PROVENANCE)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "d|o\ng", "2": "*fish*"}
    assert config["label2id"] == {"cat": 0, "d|o\ng": 1, "*fish*": 2}
    assert (config["model_type"], config["num_channels"], config["image_size"]) == ("exml", 3, [16, 20])
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.5, 0.4, 0.3], [0.25, 0.2, 0.3])
    assert exml.experts.read_card(tmp_path).training == PROVENANCE
    readme = (tmp_path / "README.md").read_text()
    for part in ("pipeline_tag: image-classification", "| a\\|b | cat | " + "0" * 64, "| c | 1, 2 |", "The ensemble"):
        assert part in readme
    assert r"cat, d\|o g, \*fish\*" in readme


def test_transformers_reads_the_preprocessing(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    save_pretrained(student(), tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = torch.randint(256, (3, 16, 20), dtype=torch.uint8)
    wanted = exml.load(tmp_path).normalize(image[None] / 255)
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_loads_its_architectures(channels: int, tmp_path: Path):
    timm = pytest.importorskip("timm")
    shape = (channels, 32, 32)
    settings = {"classes": 3} if channels == 3 else {"classes": 3, "channels": 1}
    module = exml.models.build("timm/resnet10t.c3_in1k", **settings).eval()
    expert = exml.Expert(Normalized(module, (0.3,), (0.2,)), labels=LABELS, image_shape=shape)
    save_pretrained(expert, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, *shape)
    torch.testing.assert_close(loaded((images - 0.3) / 0.2), expert.logits(images))
    assert loaded.pretrained_cfg["label_names"] == LABELS
    torch.testing.assert_close(exml.load(tmp_path).logits(images), expert.logits(images))


def test_torchvision_loads_its_architectures_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = exml.models.build("torchvision/squeezenet1_1", classes=3)
    save_pretrained(exml.Expert(module, labels=LABELS, image_shape=(3, 64, 64)), tmp_path / "FOLDER")
    code = (tmp_path / "FOLDER" / "README.md").read_text().split("```python")[-1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(names["model"].eval()(images), module.eval()(images))


def damage(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))


FAULTS = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors in"),
    "no preprocessor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "a folder of exml"),
    "no block": (lambda folder: damage(folder, "config.json", '"exml": {', '"other": {'), "a folder of exml"),
    "no label": (lambda folder: damage(folder, "config.json", '"1":', '"9":'), "a folder of exml"),
    "no mean": (lambda folder: damage(folder, "preprocessor_config.json", "image_mean", "mean"), "a folder of exml"),
    "a wrong mean": (lambda folder: damage(folder, "preprocessor_config.json", "0.25", "25.0"), "mean and std"),
    "other weights": (lambda folder: save_other(folder), "SHA-256"),
    "other shapes": (lambda folder: damage(folder, "config.json", '"width": 2', '"width": 4'), "its weights fit"),
    "not JSON": (lambda folder: damage(folder, "config.json", "{", ""), "a folder of exml|JSON"),
}


def save_other(folder: Path) -> None:
    other = save_pretrained(student(module=SlimResNet18(3, 3, width=2)), folder / "other")
    (other / "model.safetensors").replace(folder / "model.safetensors")


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_found(fault: str, tmp_path: Path):
    spoil, message = FAULTS[fault]
    spoil(save_pretrained(student(), tmp_path))
    with pytest.raises(ExpertError, match=message):
        exml.load(tmp_path)


def test_what_cannot_be_loaded_again_is_not_written(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="a registered architecture"):
        save_pretrained(exml.Expert(nn.Flatten(), (0,), (1, 1, 1)), tmp_path / "merged")
    with pytest.raises(ExpertError, match="JSON"):
        save_pretrained(student(), tmp_path / "merged", provenance={"experts": {1, 2}})
    assert not (tmp_path / "merged").exists()
