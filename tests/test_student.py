"""Students predict, are saved and exported, from Python and on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import exml
from exml import cli
from exml.core.errors import DataError, ShapeError
from exml.models import ConvNet, SlimResNet18


def student(channels: int = 3, **changes: Any) -> exml.Student:
    torch.manual_seed(0)
    module = SlimResNet18(3, 3, width=2) if channels == 3 else ConvNet(1, 3, 16)
    shape = (channels, 16, 16)
    settings = {"labels": ["cat", "dog", "fish"], "image_shape": shape, "mean": (0.5,), "std": (0.1,), **changes}
    return exml.Student(exml.Expert(module.eval(), **settings))


PIXELS = torch.randint(256, (3, 30, 40), dtype=torch.uint8)
IMAGE = Image.fromarray(PIXELS.permute(1, 2, 0).numpy())


def same_image(folder: Path) -> dict[str, Any]:
    IMAGE.save(folder / "photo.png")
    array = PIXELS.permute(1, 2, 0).numpy()
    return {
        "path": folder / "photo.png",
        "text": str(folder / "photo.png"),
        "picture": IMAGE,
        "bytes": PIXELS,
        "floats": PIXELS / 255,
        "array": array,
        "float array": array.astype(np.float64) / 255,
    }


def test_an_image_of_any_kind_has_the_same_probabilities(tmp_path: Path):
    ours = student()
    resized = functional.interpolate(PIXELS[None] / 255, (16, 16), mode="bilinear", antialias=True)
    wanted = ours.expert.logits(resized).softmax(1)[0]
    for picture in same_image(tmp_path).values():
        found = ours.predict(picture)
        assert isinstance(found, dict)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        torch.testing.assert_close(torch.tensor([found[label] for label in ours.labels]), wanted)


def test_several_images_are_a_list(tmp_path: Path):
    ours, one = student(), student().predict(IMAGE)
    for images in ([IMAGE, PIXELS], (PIXELS, IMAGE), torch.stack([PIXELS, PIXELS])):
        found = ours.predict(images)
        assert isinstance(found, list)
        assert [row == pytest.approx(one, abs=1e-5) for row in found] == [True, True]
    assert ours.predict([]) == []
    top = ours.predict(IMAGE, top=1)
    assert list(top) == list(one)[:1]


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_color_are_converted(channels: int):
    ours = student(channels)
    gray, color = IMAGE.convert("L"), IMAGE
    for picture in (gray, color, np.array(gray), torch.from_numpy(np.array(gray))[None], IMAGE.convert("RGBA")):
        assert set(ours.predict(picture)) == {"cat", "dog", "fish"}
    luma = functional.conv2d(PIXELS[None] / 255, torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1))
    if channels == 1:
        assert ours.predict(color) == pytest.approx(ours.predict(luma[0]), abs=0.02)  # Pillow rounds to bytes
    else:
        assert ours.predict(gray) == pytest.approx(ours.predict(gray.convert("RGB")), abs=1e-5)


def test_a_photo_is_turned_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    IMAGE.rotate(180).save(tmp_path / "turned.png", exif=exif)
    assert student().predict(tmp_path / "turned.png") == student().predict(IMAGE)


@pytest.mark.parametrize(
    "image", [PIXELS.float(), PIXELS[0], PIXELS[:2], torch.empty(3, 0, 4), PIXELS.long(), torch.full((3, 4, 4), -0.1)]
)
def test_what_is_not_an_image_is_one_error(image: torch.Tensor):
    with pytest.raises(ShapeError, match="an image with 3 channel"):
        student().predict(image)


def test_only_the_classes_of_the_student_compete():
    ours = student(labels=["a", "b"], classes=(7, 5), outputs=(5, None, 7))
    logits = ours.expert.logits(PIXELS[None, :, :16, :16] / 255)[0, [2, 0]]
    found = ours.predict(PIXELS[:, :16, :16])
    assert [found["a"], found["b"]] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


def test_a_saved_student_is_the_student(tmp_path: Path):
    ours = student()
    loaded = exml.Student.load(ours.save(tmp_path / "pets"))
    assert loaded.predict(IMAGE) == ours.predict(IMAGE)
    assert (loaded.labels, loaded.result, loaded.agreement) == (("cat", "dog", "fish"), None, None)
    assert repr(loaded) == "Student(3 classes, images 3x16x16)"
    assert student(labels=None, classes=(2, 0, 1)).labels == ("2", "0", "1")


def test_exml_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ours = student()
    folder = ours.save(tmp_path / "pets")
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    IMAGE.save(images / "more" / "a.png")
    IMAGE.save(images / "b.jpg")
    (images / "notes.txt").write_text("no image")
    assert cli.main(["predict", str(folder), str(images), str(images / "more" / "a.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    label, probability = next(iter(ours.predict(IMAGE).items()))
    assert lines[1] == f"{images / 'more' / 'a.png'}  {label} {probability:.3f}"
    assert [line.split("  ")[0] for line in lines] == [str(images / "b.jpg"), *[str(images / "more" / "a.png")] * 2]
    assert cli.main(["predict", str(folder), str(images), "--top", "2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[1])
    assert row["labels"] == ours.predict(IMAGE, top=2)


def test_a_broken_image_is_named_and_the_others_are_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = student().save(tmp_path / "pets")
    IMAGE.save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes()[:100])
    assert cli.main(["predict", str(folder), *(str(tmp_path / f"{name}.png") for name in ("missing", "a", "b"))]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert [f"{name}.png" in line for name, line in zip(("missing", "a"), err.splitlines(), strict=True)] == [True] * 2
    with pytest.raises(DataError, match="an image in"):
        student().predict(tmp_path / "a.png")


@pytest.mark.parametrize(("arguments", "message"), [(["--top", "0"], "top >= 1"), (["none"], "none")])
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    student().save(tmp_path / "pets")
    IMAGE.save(tmp_path / "b.png")
    command = ["predict", "pets", "b.png", *arguments] if arguments[0] == "--top" else ["predict", *arguments, "b.png"]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_exml_export(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    folder = student(1).save(tmp_path / "pets")
    assert cli.main(["export", str(folder), "--format", "pt2"]) == 0
    assert f"Wrote {folder / 'model.pt2'}." in capsys.readouterr().out
    assert cli.main(["export", str(folder), "--format", "pt2", "--out", str(tmp_path / "x.pt2")]) == 0
    assert (tmp_path / "x.pt2").is_file()
