"""Accuracy on labeled files: torchmetrics is the oracle, and every broken input is listed."""

import csv
import json

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from exml import Samples, cli
from exml.core.errors import DataError, ExpertError, ShapeError
from exml.core.serialization import from_plain, to_plain
from exml.experts import Expert, save_expert
from exml.models import ConvNet
from exml.runs import Assessment, assess, assessment, assessment_table, confusion_figure, expert_loads, save_figure
from exml.runs.pictures import as_pixels

LABELS = ("cat", "dog", "hen", "owl")
SHAPE = (3, 8, 8)


def expert(classes=(0, 1, 2, 3), seed=0, name="student", shape=SHAPE):
    torch.manual_seed(seed)
    module = ConvNet(channels=shape[0], classes=len(classes), image_size=shape[1], widths=(4,)).eval()
    for parameter in module.parameters():
        parameter.data.mul_(3)
    return Expert(module, classes, shape, labels=[LABELS[place] for place in classes], name=name)


EXPERTS = [expert((0, 1), 1, "pets"), expert((1, 2, 3), 2, "birds")]


@pytest.fixture
def samples():
    draws = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(60, *SHAPE, generator=draws)).to(torch.uint8)
    return Samples.of(images, torch.randint(4, (60,), generator=draws))


@pytest.fixture
def folder(tmp_path, samples):
    """The samples as files with one folder per label, without loss, and other files."""
    for place, (image, label) in enumerate(zip(samples.images, samples.labels.tolist(), strict=True)):
        path = tmp_path / "images" / LABELS[label] / ("more" * (place % 2)) / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".hidden").mkdir()
    return tmp_path / "images"


def logits(one, samples):
    """Logits over all classes, minus infinity for unknown ones."""
    with torch.no_grad():
        found = torch.full((len(samples), 4), -torch.inf)
        found[:, list(one.classes)] = one.logits(samples.pixels())
    return found


def text(found, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(assessment_table(found, width))
    return capture.get()


def test_accuracies_and_confusions_are_those_of_torchmetrics(samples, monkeypatch):
    student = expert()
    whole = assess(student, samples, EXPERTS)
    monkeypatch.setattr(assessment, "CHUNK", 5 * (3 * 64 + 8))  # five images at a time
    assert assess(student, samples, EXPERTS) == whole
    scores = [logits(one, samples) for one in (student, *EXPERTS)]
    for row, found in zip(whole.classifiers, scores, strict=False):
        assert row.accuracy == pytest.approx(float(multiclass_accuracy(found, samples.labels, 4, average="micro")))
        torch.testing.assert_close(torch.tensor(row.labels), multiclass_accuracy(found, samples.labels, 4, "none"))
    predicted, truth = scores[0].argmax(1), samples.labels
    assert torch.equal(torch.tensor(whole.confusion), multiclass_confusion_matrix(predicted, truth, 4))
    assert whole.images == tuple(truth.bincount().tolist())
    for row, one, found in zip(whole.classifiers[1:3], EXPERTS, scores[1:], strict=True):
        own = torch.isin(truth, one.class_ids)
        assert row.own_images == int(own.sum())
        assert row.own == pytest.approx(float((found.argmax(1) == truth)[own].double().mean()))
        assert row.student == pytest.approx(float((predicted == truth)[own].double().mean()))


def test_ensembles_are_the_formulas(samples):
    found = {row.name: row.accuracy for row in assess(expert(), samples, EXPERTS).classifiers}
    scores = [logits(one, samples) for one in EXPERTS]
    probabilities = torch.stack([one.softmax(1) for one in scores])
    entropies = torch.stack([-(p * p.clamp_min(1e-30).log()).sum(1) for p in probabilities])
    surest = probabilities[entropies.argmin(0), torch.arange(len(samples))]
    centered = [one - one[:, list(e.classes)].mean(1, keepdim=True) for one, e in zip(scores, EXPERTS, strict=True)]
    mean = torch.nan_to_num(torch.stack(centered), neginf=torch.nan).nanmean(0)
    formulas = {
        "mean of probabilities": probabilities.mean(0),
        "most certain expert": surest,
        "mean of centered logits": mean,
    }
    for name, values in formulas.items():
        assert found[name] == pytest.approx(float((values.argmax(1) == samples.labels).double().mean()))


def test_a_folder_and_a_csv_file_are_the_same_images(folder, samples, tmp_path):
    expected = assess(expert(), samples)
    assert assess(expert(), folder) == expected
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = [(path.relative_to(tmp_path), path.relative_to(folder).parts[0]) for path in folder.rglob("*.png")]
        csv.writer(file).writerows([("label", "path", "note"), *((label, path, "ä") for path, label in rows)])
    assert assess(expert(), tmp_path / "list.csv") == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_images_of_any_size_and_mode(tmp_path, mode, shape):
    gray = Image.fromarray(np.full((31, 17), 200, np.uint8))
    image = Image.fromarray(np.full((31, 17), 200 * 257, np.uint16)) if mode == "I;16" else gray.convert(mode)
    image.save(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"))
    [path] = tmp_path.iterdir()
    pixels = as_pixels(path, shape)
    assert pixels.shape == (1, *shape)
    assert float(pixels.mean()) == pytest.approx(200 / 255, abs=0.25 if mode == "1" else 0.02)


def test_all_broken_files_are_listed(folder):
    (folder / "cat" / "a.png").write_bytes(b"no image")
    (folder / "owl" / "b.jpg").write_bytes(b"")
    whole = next(folder.rglob("1.png")).read_bytes()
    (folder / "dog" / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as raised:
        assess(expert(), folder)
    assert all(name in str(raised.value) for name in ("a.png", "b.jpg", "c.png"))


def test_unknown_labels_are_listed_or_left_out(folder, samples):
    (folder / "hen").rename(folder / "henn")
    with pytest.raises(DataError, match=r"'henn' \(similar to 'hen'\)"):
        assess(expert(), folder)
    known = samples[samples.labels != 2]
    assert assess(expert(), folder, ignore_unknown=True) == assess(expert(), known)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"file,label\na.png,cat\n", "the columns file, label"),
        (b"path,label\na.png\n", r"incomplete lines: \[2\]"),
        (b"path,label\n", "none"),
        (b"\xff\xfe,label\n", "utf-8"),
        (b"path,label\nmissing.png,cat\n", "missing.png"),
    ],
)
def test_faulty_lists_are_one_error(tmp_path, content, fault):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=fault):
        assess(expert(), tmp_path / "list.csv")


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_images_is_one_error(tmp_path, name):
    with pytest.raises(DataError):
        assess(expert(), tmp_path / name)


def test_labels_that_no_image_has_and_samples_of_other_classes(samples):
    found = assess(expert(), samples[samples.labels < 2], EXPERTS)
    assert found.images[2:] == (0, 0)
    assert found.classifiers[0].labels[2:] == (None, None)
    assert from_plain(to_plain(found), Assessment) == found
    assert " - " in text(found)
    with pytest.raises(DataError, match=r"\[3\]"):
        assess(expert((0, 1, 2)), samples)


def test_samples_of_another_image_shape_are_refused(samples):
    with pytest.raises(ShapeError, match=r"expected samples .* \(1, 16, 16\), got \(3, 8, 8\); remedy: resize"):
        assess(expert(shape=(1, 16, 16)), samples)


@pytest.mark.parametrize("count", [3, 40, 130])
def test_tables_and_pictures_of_few_and_many_labels(tmp_path, count):
    draws = torch.Generator().manual_seed(1)
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, count))
    names = [f"{place} is the $number of [b]this[/b] label" for place in range(count)]
    samples = Samples.of(torch.rand(400, 1, 2, 2, generator=draws), torch.randint(count, (400,), generator=draws))
    found = assess(Expert(head, labels=names, image_shape=(1, 2, 2)), samples)
    table = text(found)
    assert all(len(line) <= 80 for line in table.splitlines())
    assert ("Most frequent confusions" in table) == (count > 3)
    assert sum(cell for *_, cell in found.confused) == 400 - sum(found.confusion[i][i] for i in range(count))
    save_figure(confusion_figure(found), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_experts_find_their_labels_by_name_or_by_number(tmp_path):
    save_expert(attrs.evolve(expert((0, 1), 1), classes=(0, 1), labels=("owl", "horse"), outputs=(0, 1)), tmp_path, "a")
    [load] = expert_loads(expert(), tmp_path)
    assert (load().classes, load().labels, load().outputs) == ((3,), ("owl",), (3, None))
    numbered = attrs.evolve(expert(shape=(1, 8, 8)), labels=None)
    save_expert(attrs.evolve(expert((1, 2)), labels=None), tmp_path / "numbers", "b")
    [load] = expert_loads(numbered, tmp_path / "numbers")
    assert (load().classes, load().image_shape) == ((1, 2), (1, 8, 8))
    with pytest.raises(ExpertError, match="labels of the student"):
        expert_loads(numbered, tmp_path)


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(folder, samples, tmp_path, capsys):
    for one in EXPERTS:
        ids = range(len(one.classes))
        save_expert(
            attrs.evolve(one, classes=ids, outputs=ids),
            tmp_path / "e",
            one.name,
        )
    save_expert(expert(), tmp_path / "s", "student")
    student, experts, out = tmp_path / "s" / "student.safetensors", tmp_path / "e", tmp_path / "out"
    code, printed, err = call(capsys, "evaluate", student, "--images", folder, "--experts", experts, "--out", out)
    assert (code, err) == (0, "")
    assert "Accuracy on 60 labeled images, %" in printed
    found = from_plain(json.loads((out / "assessment.json").read_text()), Assessment)
    expected = assess(expert(), samples, sorted(EXPERTS, key=lambda one: one.name))
    assert [attrs.evolve(row, name="") for row in found.classifiers] == [
        attrs.evolve(row, name="") for row in expected.classifiers
    ]
    assert (out / "confusion.png").is_file()
    code, printed, err = call(capsys, "evaluate", student, "--experts", experts, "--out", out)
    assert (code, err) == (0, "")
    assert "The student agrees with its experts on" in printed.replace("\n", " ")
    assert json.loads((out / "agreement.json").read_text())["kind"] == "agreement"
    code, printed, err = call(capsys, "evaluate", student)
    assert (code, printed) == (2, "")
    assert "expected --images, --experts or both, got neither" in err
