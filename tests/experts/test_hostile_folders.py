"""What is wrong with a folder of experts is one error of the command line, which names the file and the remedy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from exml.cli import main
from exml.core.errors import ExpertError
from exml.experts.card import fault

CARD = {
    "labels": ["cat", "dog"],
    "image_shape": [1, 8, 8],
    "architecture": {"name": "sequential", "layers": ["flatten", {"linear": [64, 2]}]},
}


def put(folder: Path, *, units: int = 2, bias: float = 0.0, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"1.weight": torch.ones(units, 64), "1.bias": torch.full((units,), bias)}, folder / "bad.safetensors")
    card = {name: value for name, value in {**CARD, **changes}.items() if value is not None}
    (folder / "bad.yaml").write_text(yaml.safe_dump(card))


def card(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: put(folder, **changes)


def content(name: str, data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        put(folder)
        (folder / name).write_bytes(data)

    return make


def truncated(folder: Path) -> None:
    put(folder)
    path = folder / "bad.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def circle(folder: Path) -> None:
    put(folder)
    (folder / "bad.safetensors").unlink()
    (folder / "bad.safetensors").symlink_to("bad.safetensors")


def link(folder: Path) -> None:
    put(folder)
    (folder / "bad.safetensors").rename(folder.parent / "elsewhere")
    (folder / "bad.safetensors").symlink_to(folder.parent / "elsewhere")


def alone(folder: Path) -> None:
    put(folder)
    (folder / "bad.safetensors").unlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (card(units=3), r"3 output units for 2 classes; remedy: list the labels of all units"),
        (card(labels=["a", "b", "c"]), r"2 output units for 3 classes; remedy: list the labels of all units"),
        (card(labels=["a", "a"]), r"\['a'\] repeated"),
        (card(labels="cat, dog"), r"a list at labels .*got 'cat, dog'"),
        (card(labels=[True, False]), r"labels that are text .*got True; remedy: put names in quotation marks"),
        (card(labels=None), r"no labels: .*; remedy: add it to .*bad\.yaml"),
        (card(labels=None, classes=[0, 5], outputs=[0, 1]), r"an output unit for every class .*none for \[5\]"),
        (card(labels=None, classes=[0, 10**7]), r"class ids from 0 and below 131072"),
        (card(architecture=None), r"weights of no common one; remedy: add it to the card"),
        (card(architecture="conv-nett"), r"conv-net, .*got 'conv-nett'; remedy: did you mean 'conv-net'\?"),
        (card(lables=["a", "b"]), r"got 'lables'; remedy: did you mean 'labels'"),
        (card(std=[0.0]), r"std > 0"),
        (card(mean=[120.0], std=[60.0]), r"divide those for pixels from 0 to 255 by 255"),
        (card(image_shape=[1, 9, 9]), r"a module that takes images \(1, 9, 9\).*remedy: correct image_shape"),
        (card(image_shape=[3, 10**5, 10**5]), r"a product of at most 4194304"),
        (card(bias=float("nan")), r"NaN or infinity in 1\.bias; remedy: leave this expert out"),
        (truncated, r"bad\.safetensors, got tensors that .*remedy: get both files again"),
        (content("bad.safetensors", b""), r"a file of 0; remedy: get both files again"),
        (content("bad.yaml", b""), r"bad\.yaml, got no labels.* and no image_shape"),
        (content("bad.yaml", "labels: [café, dog]".encode("latin-1")), r"bad\.yaml, .*remedy: save the file as UTF-8"),
        (content("bad.json", b"{}"), r"got bad\.json and bad\.yaml; remedy: rename one"),
        (circle, r"bad\.safetensors, got a broken link"),
        (link, r"a link that leads out of its folder.*; remedy: put the file itself into the folder"),
        (alone, r"bad\.safetensors, got no such file; remedy: add the missing file, or move the card away"),
        (lambda folder: put(folder / "more"), r"only other files, such as more; remedy: .*itself"),
        (lambda folder: (folder / "photo.png").touch(), r"only other files, such as photo\.png"),
        (lambda folder: None, r"an empty folder; remedy: name a folder that holds"),
        (lambda folder: folder.rmdir(), r"no such folder"),
    ],
)
def test_one_error_names_what_is_wrong(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experts").mkdir()
    make(tmp_path / "experts")
    out = ["--out", str(tmp_path / "out"), "--student", "conv-net:widths=[4]"]
    assert main(["learn", str(tmp_path / "experts"), *out, "--strategy", "noise", "--quiet"]) == 2
    printed = capsys.readouterr().err.replace("\n", " ")
    assert printed.startswith("exml: error: expected ")
    assert "remedy: " in printed
    assert re.search(message, printed), printed
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_file_without_permission_is_not_called_damaged() -> None:
    with pytest.raises(ExpertError, match=r"a\.pth, got .*denied.*; remedy: give this user the permission"):
        fault(Path("a.pth"), PermissionError(13, "Permission denied"), "complete weights", "get the file again")
