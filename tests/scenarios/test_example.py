"""The three example experts are read in their formats, know their digits, and differ in shape."""

from pathlib import Path

import jaxtyping
import pytest

import exml
from exml import cli
from exml.core.errors import SettingError
from exml.experts import entries, read_cards
from exml.runs import assess
from exml.scenarios import write_example


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnxscript", "transformers"):
        pytest.importorskip(package)
    made = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:  # the exporter traces with sizes that the shape checks do not know
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        assert write_example(made / "digits") == (made / "digits" / "experts", made / "digits" / "images")
    return made / "digits"


def test_the_formats_labels_and_shapes_are_unlike(folder: Path):
    found = {name: entry.format for name, entry in entries(folder / "experts").items()}
    assert found == {"high": "onnx", "low": "hugging-face", "middle": "state-dict"}
    cards = read_cards(folder / "experts")
    assert {name: card.image_shape for name, card in cards.items()} == {
        "high": (1, 28, 28),
        "low": (3, 16, 16),
        "middle": (1, 8, 8),
    }
    assert cards["middle"].labels == ("three", "four", "five", "six", "Seven")


@pytest.mark.parametrize("name", ["low", "middle", "high"])
def test_each_expert_knows_its_digits(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    path = folder / "experts" / ("low" if name == "low" else f"{name}.pth" if name == "middle" else f"{name}.onnx")
    expert = exml.load(path, labels=["three", "four", "five", "six", "seven"]) if name == "middle" else exml.load(path)
    assert assess(expert, folder / "images", ignore_unknown=True).classifiers[0].accuracy > 0.9


def test_an_existing_folder_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SettingError, match=r"no .* yet"):
        write_example(folder)
    assert cli.main(["experts", "example", str(folder)]) == 2


def test_without_the_packages_the_error_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(SettingError, match=r"exml\[hf\]"):
        write_example(tmp_path / "digits")
    assert not (tmp_path / "digits").exists()
