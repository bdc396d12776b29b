"""Exported files compute what the module computes, and say what its outputs mean."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import jaxtyping
import pytest
import torch
from torch import Tensor, nn

import exml
from exml.core.errors import ExpertError, SettingError
from exml.experts import export
from exml.experts.adapting import adapted
from exml.models import ConvNet, Normalized, SlimResNet18


@pytest.fixture(autouse=True)
def _no_shape_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters trace with sizes that are not numbers, which the shape checks of the tests do not know."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=["onnx", "pt2"])
def format(request: pytest.FixtureRequest) -> str:
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    return request.param


def opened(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """A function that runs an exported file, and its metadata."""
    if path.suffix == ".pt2":
        extra = {"exml.json": ""}
        program = torch.export.load(path, extra_files=extra)
        return program.module(), json.loads(extra["exml.json"])
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    metadata = session.get_modelmeta().custom_metadata_map
    return lambda images: torch.from_numpy(session.run(None, {"pixels": images.numpy()})[0]), metadata


def colored(**changes: Any) -> exml.Expert:
    torch.manual_seed(0)
    module = Normalized(SlimResNet18(3, 3, width=4), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)).eval()
    expert = exml.Expert(module, labels=["cat", "dög", "fish"], image_shape=(3, 16, 20), name="pets")
    return attrs.evolve(expert, **changes)


EXPERTS = {
    "color": colored,
    "numbers": lambda: colored(labels=None),
    "some units": lambda: colored(labels=["a", "b"], classes=(7, 5), outputs=(5, None, 7)),
    "gray": lambda: exml.Expert(ConvNet(1, 2, 8), labels=["a", "b"], image_shape=(1, 8, 8), mean=(0.3,), std=(0.2,)),
    "adapted": lambda: adapted(colored(), (1, 12, 12)),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_the_file_computes_the_logits_of_the_classes(name: str, format: str, tmp_path: Path):
    expert = EXPERTS[name]()
    run, metadata = opened(export(expert, tmp_path / f"model.{format}"))
    channels, height, width = expert.image_shape
    for batch, *size in ((1, height, width), (7, 33, 31), (3, 5, 90)):
        images = torch.rand(batch, channels, *size)
        resized = nn.functional.interpolate(images, [height, width], mode="bilinear", antialias=True)
        wanted = expert.own_logits(expert.logits(resized))
        torch.testing.assert_close(run(images), wanted, rtol=1e-5, atol=1e-5)
    labels = list(expert.labels or map(str, expert.classes))
    assert json.loads(metadata["exml.labels"]) == labels
    assert json.loads(metadata["exml.classes"]) == list(expert.classes)
    assert json.loads(metadata["exml.image_shape"]) == list(expert.image_shape)
    assert (metadata["exml.name"], metadata["exml.version"]) == (expert.name, exml.__version__)


def test_the_expert_stays_as_it_is(format: str, tmp_path: Path):
    expert = colored()
    before = expert.fingerprint()
    expert.module.train()
    export(expert, tmp_path / "any name", format=format)  # pyright: ignore[reportArgumentType]
    assert expert.module.training
    assert expert.fingerprint() == before
    assert [path.name for path in tmp_path.iterdir()] == ["any name"]


class Random(nn.Module):
    """Another result at every call."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + torch.rand_like(images).flatten(2)[..., :2].sum(1)


class ByValue(nn.Module):
    """Control flow that depends on pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2] if float(images.sum()) > 0 else images.flatten(1)[:, 2:4]


@pytest.mark.parametrize(("module", "message"), [(Random(), "logits within"), (ByValue(), "torch.export can trace")])
def test_a_module_that_cannot_be_exported_is_one_error(module: nn.Module, message: str, format: str, tmp_path: Path):
    expert = exml.Expert(module, labels=["a", "b"], image_shape=(1, 4, 4), name="odd")
    with pytest.raises(ExpertError, match=message):
        export(expert, tmp_path / f"model.{format}")
    assert not list(tmp_path.iterdir())


def test_the_format_is_known_before_any_work(tmp_path: Path):
    with pytest.raises(SettingError, match="onnx or pt2"):
        export(colored(), tmp_path / "model.tflite")


def test_without_the_packages_the_error_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(SettingError, match=r"exml\[onnx\]"):
        export(colored(), tmp_path / "model.onnx")


def test_exml_reads_the_file_again(format: str, tmp_path: Path):
    expert = colored()
    loaded = exml.load(export(expert, tmp_path / f"model.{format}"), trust=format == "pt2")
    images = torch.rand(4, *expert.image_shape)
    assert (loaded.labels, loaded.image_shape) == (expert.labels, expert.image_shape)
    torch.testing.assert_close(loaded.logits(images), expert.logits(images), rtol=1e-5, atol=1e-5)
