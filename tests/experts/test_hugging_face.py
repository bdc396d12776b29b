"""Folders of transformers and timm: metadata from their own files, and the logits of their own libraries."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import exml
from exml.core.activation import record_activations
from exml.core.errors import ExmlError, ExpertError

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
LABELS = ["cat", "dog", "owl"]


def _config(kind, **settings):
    return getattr(transformers, f"{kind}Config")(id2label=dict(enumerate(LABELS)), **settings)


TINY = {
    "ResNet": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
    "ViT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "patch_size": 8,
            "image_size": 32},
    "MobileNetV2": {"depth_multiplier": 0.25, "image_size": 32},
    "ConvNext": {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1], "num_stages": 4},
    "MobileViT": {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 8, 8, 8, 16], "num_attention_heads": 2,
                  "image_size": 32, "patch_size": 2},
}  # fmt: skip
PROCESSORS = {
    "ResNet": {"size": {"shortest_edge": 32}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    "ViT": {"size": {"height": 32, "width": 32}},
    "MobileNetV2": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
    "ConvNext": {"size": 32, "do_normalize": False},
    "MobileViT": {"do_flip_channel_order": True, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True,
                  "do_normalize": False},
}  # fmt: skip


def save(folder, kind="ResNet", processor=None, **settings):
    """A tiny model with random weights, and its processor; returns the model."""
    model = getattr(transformers, f"{kind}ForImageClassification")(_config(kind, **{**TINY[kind], **settings})).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind] if processor is None else processor))
    return model


def change(path, **values):
    plain = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in plain.items() if value is not ...}))


@pytest.mark.parametrize("kind", TINY)
def test_logits_are_those_of_transformers(kind, tmp_path):
    model = save(tmp_path / "pets", kind)
    expert = exml.load(tmp_path / "pets")
    assert (expert.name, expert.labels, expert.image_shape) == ("pets", tuple(LABELS), (3, 32, 32))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    processor = getattr(transformers, f"{kind}ImageProcessor", None) or transformers.ConvNextImageProcessor
    settings = {**PROCESSORS[kind], "size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
    inputs = processor(**{**settings, "do_resize": False, "do_center_crop": False})(list(images), return_tensors="pt")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        wanted = model(**inputs).logits
        assert torch.allclose(expert.logits(pixels), wanted, atol=1e-5)
    expert.check(3)
    assert expert.differentiable or kind == "MobileViT"  # whose tiny random weights lose the gradient


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_of_bin_files(sharded, tmp_path):
    state = save(tmp_path / "pets").state_dict()
    (tmp_path / "pets" / "model.safetensors").unlink()
    names = list(state)
    files = {"a.bin": names[:9], "b.bin": names[9:]} if sharded else {"pytorch_model.bin": names}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, tmp_path / "pets" / file)
    if sharded:
        index = {"weight_map": {name: file for file, part in files.items() for name in part}}
        (tmp_path / "pets" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert exml.ExpertProfile.from_folder(tmp_path).experts[0].running_statistics
    found = exml.load(tmp_path / "pets").module.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    (tmp_path / "pets.yaml").write_text(f"sha256: {'a' * 64}")
    with pytest.raises(ExpertError, match=r"one file model\.safetensors for the sha256.*remove sha256"):
        exml.load(tmp_path / "pets")


def test_batch_norm_is_seen_by_priors_and_profiles(tmp_path):
    save(tmp_path / "pets")
    expert = exml.load(tmp_path / "pets")
    with record_activations(expert.module) as activations:
        expert.logits(torch.rand(2, 3, 32, 32))
    traits = exml.ExpertProfile.from_folder(tmp_path).experts[0]
    assert len(activations) == len(traits.running_statistics) > 3


@pytest.mark.parametrize(
    ("processor", "shape", "mean", "std"),
    [
        ({"size": 24}, (24, 24), 0.5, 0.5),
        ({"size": {"shortest_edge": 24}, "crop_size": 20, "do_center_crop": True}, (20, 20), 0.5, 0.5),
        ({"size": {"height": 24, "width": 20}, "image_mean": [0.1] * 3}, (24, 20), 0.1, 0.5),
        ({"do_resize": False, "size": 7}, (16, 16), 0.5, 0.5),
        ({"size": 24, "do_normalize": False}, (24, 24), 0.0, 1.0),
        ({"size": 24, "do_normalize": False, "do_rescale": False}, (24, 24), 0.0, 1 / 255),
        ({"size": 24, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, (24, 24), 0.5, 0.5),
        ({"size": 24, "image_std": [0.4] * 3, "include_top": True}, (24, 24), 0.5, 0.16),
    ],
)
def test_every_form_of_a_processor(processor, shape, mean, std, tmp_path):
    save(tmp_path / "a", processor=processor, num_channels=1)
    change(tmp_path / "a" / "config.json", image_size=16)
    card = exml.experts.read_card(tmp_path / "a")
    assert card.image_shape == (1, *shape)
    assert card.mean == pytest.approx((mean,))
    assert card.std == pytest.approx((std,))


def test_labels_that_are_no_names_or_repeat(tmp_path):
    save(tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    change(config, id2label={"0": "crane", "1": "owl", "2": "crane"})
    assert exml.experts.read_card(tmp_path / "a").labels == ("crane (0)", "owl", "crane (2)")
    change(config, id2label={str(i): f"LABEL_{i}" for i in range(3)})
    card = exml.experts.read_card(tmp_path / "a")
    assert (card.labels, card.classes) == (None, (0, 1, 2))
    assert exml.load(tmp_path / "a", labels=LABELS).labels == tuple(LABELS)


def test_shards_are_read_like_one_file(tmp_path):
    model = save(tmp_path / "a")
    state = load_file(tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "model.safetensors").unlink()
    names = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    for file in set(names.values()):
        save_file({name: state[name] for name in state if names[name] == file}, tmp_path / "a" / file)
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    images = torch.rand(2, 3, 32, 32)
    expert = exml.load(tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(expert.logits(images), model(expert.normalize(images)).logits)
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))
    with pytest.raises(ExpertError, match="names of the files of weights"):
        exml.load(tmp_path / "a")


def _without(name):
    def remove(folder):
        state = load_file(folder / "model.safetensors")
        save_file({key: tensor for key, tensor in state.items() if key != name}, folder / "model.safetensors")

    return remove


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "or give image_shape, mean and std"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("["), "valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a configuration"),
        (lambda folder: change(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "'auto_map', which needs other"),
        (lambda folder: change(folder / "config.json", architectures=["DetrForObjectDetection"]), "not supported"),
        (lambda folder: change(folder / "config.json", model_type="nonesuch"), "a classifier of transformers"),
        (lambda folder: change(folder / "config.json", hidden_sizes=[10**6, 10**6]), "at most 2147483648 elements"),
        (lambda folder: change(folder / "config.json", hidden_sizes=[4, 16]), "weights"),
        (lambda folder: change(folder / "config.json", id2label={"0": "a", "2": "b"}), "no '1'"),
        (lambda folder: change(folder / "config.json", id2label={"0": "a", "1": "b"}), "weights"),
        (_without("classifier.1.bias"), r"1 missing, such as classifier\.1\.bias"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\1" * 100), "complete weights"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "damaged file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
    ],
)
def test_a_faulty_folder_is_one_error(damage, message, tmp_path):
    save(tmp_path / "pets")
    damage(tmp_path / "pets")
    with pytest.raises(ExpertError, match=message) as raised:
        exml.load(tmp_path / "pets")
    assert "pets" in str(raised.value)


def test_truncated_weights_and_labels_of_another_number(tmp_path):
    save(tmp_path / "pets")
    with pytest.raises(ExpertError, match=r"3 outputs.*a card of 2"):
        exml.load(tmp_path / "pets", labels=["cat", "dog"])
    weights = tmp_path / "pets" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ExpertError, match="complete weights"):
        exml.load(tmp_path / "pets")


@pytest.mark.parametrize(("package", "name"), [("hf", "transformers"), ("timm", "timm")])
def test_an_absent_package_is_named_with_its_extra(package, name, tmp_path, monkeypatch):
    save(tmp_path / "a") if name == "transformers" else save_timm(tmp_path / "a")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExmlError, match=rf'pip install "exml\[{package}\]"'):
        exml.load(tmp_path / "a")


# ---- timm


def save_timm(folder, name="test_resnet", config=None, **settings):
    model = timm.create_model(name, pretrained=False, num_classes=3, **settings).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.1)
    size = settings.get("img_size", 160)
    own = {**model.pretrained_cfg, "input_size": [3, size, size], "mean": [0.1, 0.2, 0.3], "std": [0.4] * 3}
    about = {"label_names": LABELS, "pretrained_cfg": own, **(config or {})}
    timm.models.save_for_hf(model, folder, about, model_args=settings, safe_serialization=True)
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [("test_resnet", {}), ("test_vit", {}), ("test_vit", {"img_size": 64}), ("test_efficientnet", {"in_chans": 3})],
)
def test_logits_are_those_of_timm(name, settings, tmp_path):
    model = save_timm(tmp_path / "pets", name, **settings)
    expert = exml.load(tmp_path / "pets")
    assert (expert.labels, expert.mean, expert.std) == (tuple(LABELS), (0.1, 0.2, 0.3), (0.4, 0.4, 0.4))
    images = torch.rand(2, *expert.image_shape)
    with torch.no_grad():
        assert torch.equal(expert.logits(images), model(expert.normalize(images)))
    expert.check_gradient()


def test_descriptions_replace_names_of_wordnet(tmp_path):
    names = [f"n0144076{i}" for i in range(3)]
    save_timm(tmp_path / "a", config={"label_names": names, "label_descriptions": {names[0]: "tench"}})
    assert exml.experts.read_card(tmp_path / "a").labels == ("tench", *names[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "hf-hub:somebody/resnet"}, "a model of timm"),
        ({"architecture": "nonesuch"}, "a model of timm"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "settings that load other files"),
        ({"model_args": {"nonesuch": 1}}, "a classifier of timm that the weights fit"),
        ({"model_args": {"num_classes": 4}, "label_names": None}, "a classifier of timm that the weights fit"),
        ({"pretrained_cfg": {}}, "a configuration of an image classifier"),
        ({"label_names": ["a", "b"]}, "3 outputs"),
    ],
)
def test_a_faulty_folder_of_timm_is_one_error(changes, message, tmp_path):
    save_timm(tmp_path / "pets")
    change(tmp_path / "pets" / "config.json", **changes)
    with pytest.raises(ExpertError, match=message) as raised:
        exml.load(tmp_path / "pets")
    assert "pets" in str(raised.value)
