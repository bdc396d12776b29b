"""The schema of a result, its table, its figures, and the display."""

import io
import json
import re
import typing
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import exml
from exml.core.errors import CheckpointError, ConfigError, SettingError
from exml.experts import Screening
from exml.learning import events
from exml.runs import (
    BaselineResult,
    Environment,
    ExperienceResult,
    Forecast,
    ProgressDisplay,
    Result,
    Seconds,
    StrategyResult,
    accuracy_figure,
    images_figure,
    result_table,
    samples_figure,
    save_figure,
)
from tests import tiny

NAMES = ("exml", "model-inversion", "replay")
BASELINES = ("Param. Avg.", "Ensemble Avg. (logits)", "Min. Entropy", "Oracle")


def make(strategies=NAMES, length=5, classes=2, shared=False, seed=0):
    """A result with accuracies drawn at random."""
    draw = np.random.default_rng(seed)

    def row():
        values = (
            [draw.integers(1001) / 1000] * length if shared else [draw.integers(1001) / 1000 for _ in range(length)]
        )
        return tuple(map(float, values))

    def learned(name):
        matrix = tuple(row() for _ in range(length))
        streams = tuple(sum(accuracies[: i + 1]) / (i + 1) for i, accuracies in enumerate(matrix))
        return StrategyResult(
            name=name,
            strategy=tiny.strategy().to_dict(),
            ex_model=name != "replay",
            accuracy=matrix,
            stream_accuracy=streams,
            forgetting=None if length == 1 else -0.034,
            seconds=Seconds(generation=1.5, distillation=2.0),
        )

    def baseline(name):
        if name == "Oracle" and shared:
            return BaselineResult(name=name, ex_model=False, reason="there is one test set")
        accuracy = row()
        return BaselineResult(
            name=name, ex_model=name == "Param. Avg.", accuracy=accuracy, stream_accuracy=sum(accuracy) / length
        )

    ids = [tuple(range(classes)) if shared else tuple(range(i * classes, (i + 1) * classes)) for i in range(length)]
    return Result(
        scenario="digits",
        seed=7,
        split="test",
        shared_test=shared,
        experiences=tuple(ExperienceResult(index=i, classes=own, task=None, images=50) for i, own in enumerate(ids, 1)),
        strategies=tuple(map(learned, strategies)),
        baselines=tuple(map(baseline, BASELINES)),
        seconds=Seconds(3, 1.5, 2, 0.25),
        environments=(Environment(versions={"python": "3.13"}, device="cpu", hardware="abacus", threads=2),),
    )


def test_a_saved_result_is_loaded_equal(tmp_path):
    for result in (make(), make(shared=True), make(length=1, classes=10)):
        result.save(tmp_path / "result.json")
        assert Result.load(tmp_path / "result.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_first_version_of_the_schema():
    """Other programs read these files: a changed name needs a new version; a new name with a default does not."""
    plain = json.loads(json.dumps(make().to_dict()))
    assert (plain["kind"], plain["version"]) == ("result", 1)
    whole = "scenario seed split shared_test experiences strategies baselines seconds environments stopped"
    assert list(plain)[2:] == whole.split()
    parts = {
        "experiences": "index classes task images",
        "strategies": "name strategy ex_model accuracy stream_accuracy forgetting seconds folder experiences classes "
        "suspects forecast agreement audit",
        "baselines": "name ex_model accuracy stream_accuracy reason",
        "environments": "versions device hardware threads compile precision ranks",
    }
    for name, keys in parts.items():
        assert list(plain[name][0])[1:] == keys.split()
    assert list(plain["seconds"])[1:] == ["experts", "generation", "distillation", "evaluation"]


def test_older_files_are_read():
    plain = make().to_dict()
    del plain["stopped"]
    for row in plain["strategies"]:
        del row["experiences"], row["classes"], row["suspects"], row["forecast"]
    for where in plain["environments"]:
        del where["compile"], where["precision"], where["ranks"]
    assert Result.from_dict(plain) == make()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "expected version 1 at version, got 2"),
        ({"version": None}, "got None"),
        ({"mood": "good"}, "at mood"),
        ({"seed": "0"}, "at seed"),
        ({"split": "train"}, "at split"),
        ({"seconds": {"experts": -1}}, "at seconds"),
        ({"baselines": [{"name": "x", "ex_model": False, "accuracy": [1.5]}]}, r"at baselines\[0\].*, got 1.5"),
        ({"experiences": [{"index": 0, "classes": [], "task": None, "images": 1}]}, r"at experiences\[0\]"),
    ],
)
def test_faults_are_named_by_their_path(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Result.from_dict({**make().to_dict(), **change})


@pytest.mark.parametrize("text", [None, "", "[1]", '"result"', "\xff\xfe"])
def test_a_file_that_is_not_a_result(tmp_path, text):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError):
        Result.load(path)


def test_accuracies_are_fractions():
    with pytest.raises(SettingError, match=r"accuracy, got 93.0"):
        attrs.evolve(make().strategies[0], accuracy=((0.5, 93.0),))


def lines(result, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(result_table(result, width))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_every_number(width):
    result = make()
    text = lines(result, width)
    for row in [*result.strategies, *result.baselines]:
        learned = isinstance(row, StrategyResult)
        accuracy = row.accuracy[-1] if learned else row.accuracy
        stream = row.stream_accuracy[-1] if learned else row.stream_accuracy
        expected = ["yes" if row.ex_model else "no", f"{100 * stream:.1f}", *(["-3.4"] if learned else [])]
        (line,) = [line for line in text if line.startswith(f"{row.name} ")]
        assert line.removeprefix(row.name).split() == [*expected, *(f"{100 * a:.1f}" for a in accuracy)]
    assert text[0] == "digits, seed 7: accuracy on the test images, %"
    assert "Seconds: 3 experts, 2 generation, 2 distillation, 0 evaluation; 7 in all." in text


def test_a_forecast_is_compared_with_the_time_taken():
    result = make(("exml", "noise"))
    with_forecast = attrs.evolve(result.strategies[0], forecast=Forecast(generation=1.0, distillation=1.5))
    text = lines(attrs.evolve(result, strategies=(with_forecast, result.strategies[1])), 80)
    assert text[-1] == "exml: forecast 2.5 s, took 3.5 s (+40%)."
    assert not any("forecast" in line for line in text[:-1])


def test_a_baseline_that_does_not_apply_says_why():
    text = lines(make(shared=True), 100)
    (line,) = [line for line in text if line.startswith("Oracle  ")]
    assert line.split() == ["Oracle", "no", "-"]
    assert "Oracle does not apply: there is one test set." in text
    assert not any("e1" in line for line in text)  # all columns are equal


def test_the_best_ex_model_strategy_is_bold():
    result = make()
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(result_table(result, 80))
    bold = [line for line in console.file.getvalue().splitlines() if "\x1b[1m" in line]
    fair = {row.name: row.stream_accuracy[-1] for row in result.strategies if row.ex_model}
    assert [line for line in bold if max(fair, key=fair.get) in line]
    assert not [line for line in bold if min(fair, key=fair.get) in line or "replay" in line]


@given(
    length=st.integers(1, 40),
    classes=st.integers(1, 12),
    width=st.integers(70, 200),
    names=st.lists(st.text("abc-", min_size=1, max_size=24), min_size=1, max_size=3, unique=True),
)
def test_no_table_is_cut(length, classes, width, names):
    result = make(tuple(names), length, classes)
    text = lines(result, width)
    assert max(map(len, text)) <= width
    assert not any("…" in line for line in text)
    heads = re.findall(r"\be\d+\b", "\n".join(text))
    assert heads == ([f"e{i}" for i in range(1, length + 1)] if length > 1 else [])


@pytest.mark.parametrize(
    ("result", "panels"),
    [(make(), 2), (make(("exml",)), 3), (make(("exml",), shared=True), 2), (make(length=1), 1)],
    ids=["several", "one", "one test set", "joint"],
)
def test_panels_and_bars_of_the_accuracies(result, panels):
    figure = accuracy_figure(result)
    assert len(figure.axes) == panels
    axis = figure.axes[0]
    rows = [*result.strategies, *result.baselines]
    assert [label.get_text() for label in axis.get_yticklabels()] == [row.name for row in rows]
    applicable = [row for row in rows if row.stream_accuracy is not None]
    for bar, row in zip(axis.patches, applicable, strict=True):
        stream = row.stream_accuracy[-1] if isinstance(row, StrategyResult) else row.stream_accuracy
        assert bar.get_width() == pytest.approx(100 * stream)
        assert (bar.get_hatch() is None) == row.ex_model
    texts = [text.get_text() for text in axis.texts]
    assert texts.count("does not apply") == len(rows) - len(applicable)
    assert axis.get_xlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "keeps the ex-model constraints (Sec. 2)",
        "breaks them",
    ]


def test_panels_of_a_narrow_page_are_below_one_another():
    figure = accuracy_figure(make(("exml",)), stacked=True)
    figure.draw_without_rendering()
    assert len(figure.axes) == 3
    tops = [axis.get_window_extent().y1 for axis in figure.axes]
    assert tops == sorted(tops, reverse=True)
    assert figure.get_figwidth() < 6


def test_images_are_in_rows_under_their_names():
    """Each pixel of the rows is that of the images; missing images and the lines between them are white."""
    rows = {"bytes": torch.full((3, 1, 2, 4), 51, dtype=torch.uint8), "colors": torch.rand(9, 3, 4, 4) * 3 - 1}
    figure = images_figure(rows, "two rows", across=4)
    assert figure.get_suptitle() == "two rows"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["bytes", "colors"]
    shown = [torch.tensor(axis.images[0].get_array()) for axis in figure.axes]
    assert [tuple(page.shape) for page in shown] == [(2, 19, 3), (4, 19, 3)]
    assert torch.equal(shown[0][:, 5:9], torch.full((2, 4, 3), 0.2))
    assert torch.equal(shown[0][:, 14:], torch.ones(2, 5, 3))
    assert torch.equal(shown[1][:, 15:], rows["colors"][3].clamp(0, 1).permute(1, 2, 0))


def test_a_long_title_is_inside_the_figure():
    """The name of a scenario includes the training of its experts."""
    scenario = "cifar10-joint:epochs=8,learning_rate=0.05,schedule=cosine,augmentation=cifar10,precision=bfloat16"
    result = make(length=1)
    experiences = result.experiences
    figures = [
        accuracy_figure(attrs.evolve(result, scenario=scenario)),
        samples_figure(memory(experiences), experiences, f"{scenario}, seed 0: images in the last buffer"),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        title = figure.get_suptitle()
        assert title.replace("\n", "").replace(" ", "").startswith(scenario)
        (text,) = [text for text in figure.texts if text.get_text() == title]
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
        assert all(axis.get_tightbbox().y1 <= extent.y0 for axis in figure.axes)


def test_every_bar_is_inside_the_figure():
    axis = accuracy_figure(make(shared=True)).axes[0]
    bottom, top = axis.get_ylim()
    assert bottom > len(NAMES) + len(BASELINES) - 1
    assert top < 0


def test_lines_are_the_stream_accuracies():
    result = make()
    axis = accuracy_figure(result).axes[1]
    for line, row in zip(axis.lines, result.strategies, strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert line.get_ydata() == pytest.approx([100 * value for value in row.stream_accuracy])
        assert line.get_linestyle() == ("-" if row.ex_model else "--")
    # Strategies differ in color and in shape.
    assert len({line.get_color() for line in axis.lines}) == len({line.get_marker() for line in axis.lines}) == 3
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(NAMES)
    assert axis.get_xlabel()
    assert axis.get_ylabel()


def test_the_matrix_of_a_single_student():
    result = make(("exml",))
    axis = accuracy_figure(result).axes[2]
    matrix = np.array(result.strategies[0].accuracy)
    np.testing.assert_array_equal(axis.images[0].get_array(), matrix)
    written = {text.get_position(): text.get_text() for text in axis.texts}
    assert written == {(j, i): f"{100 * matrix[i, j]:.0f}" for i in range(5) for j in range(5)}
    assert axis.get_xlabel()
    assert axis.get_ylabel()


def test_a_long_stream_has_a_color_scale_instead_of_numbers():
    figure = accuracy_figure(make(("exml",), length=13))
    assert len(figure.axes) == 4
    assert not figure.axes[2].texts


def memory(experiences, each=3, shape=(1, 4, 5), skip=()):
    """Samples whose constant pixels name their experience and label, and whose first pixel numbers them."""
    parts = []
    for experience in experiences:
        for label in experience.classes:
            if (experience.index, label) in skip:
                continue
            images = torch.full((each, *shape), (10 * experience.index + label) / 255)
            images[:, :, 0, 0] = torch.arange(each)[:, None] / 10
            parts.append(exml.Samples.of(images, torch.full((each,), label), experience=experience.index))
    return exml.Samples.concat(parts)


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5), (2, 4, 5)])
def test_one_cell_per_expert_and_class(shape):
    experiences = make(length=3, classes=2).experiences
    figure = samples_figure(memory(experiences, shape=shape), experiences, "title")
    assert len(figure.axes) == 6
    cells = [(experience.index, label) for experience in experiences for label in experience.classes]
    for axis, (index, label) in zip(figure.axes, cells, strict=True):
        assert axis.get_title() == f"class {label}"
        (picture,) = axis.images
        pixels = np.asarray(picture.get_array())
        for place in range(3):
            tile = pixels[0:4, 6 * place : 6 * place + 5]
            assert tile[0, 0] == pytest.approx([place / 10] * 3)
            assert tile[1:] == pytest.approx((10 * index + label) / 255)
        assert (pixels[:, 5] == 1).all()
        assert (pixels[:, 18:] == 1).all()
    assert [axis.get_ylabel() for axis in figure.axes] == ["expert 1", "", "expert 2", "", "expert 3", ""]


def test_cells_without_images_or_classes():
    experiences = (
        ExperienceResult(index=1, classes=(0, 1, 2), task=None, images=1),
        ExperienceResult(index=2, classes=(3,), task=None, images=1),
    )
    figure = samples_figure(memory(experiences, skip={(1, 1)}), experiences, "title")
    assert [axis.axison for axis in figure.axes] == [True, True, True, True, False, False]
    said = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert said == [[], ["none"], [], [], [], []]


def test_of_many_experts_and_classes_a_few_are_shown():
    experiences = make(length=30, classes=40).experiences
    figure = samples_figure(memory(experiences[:1], each=1), experiences, "title")
    assert len(figure.axes) == 12 * 10
    assert figure.axes[0].get_ylabel() == "expert 1\n10 of 40"
    assert figure.axes[-1].get_title() == "class 1199"


def test_images_out_of_range_are_clamped():
    experiences = make(length=1, classes=1).experiences
    samples = exml.Samples.of(torch.tensor([-3.0, 4.0]).view(2, 1, 1, 1), torch.zeros(2).long(), experience=1)
    (axis,) = samples_figure(samples, experiences, "title").axes
    assert np.asarray(axis.images[0].get_array())[0, :3, 0].tolist() == [0, 1, 1]


def test_figures_are_written_atomically(tmp_path):
    figure = samples_figure(memory(make().experiences), make().experiences, "title")
    save_figure(figure, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError):
        save_figure(figure, tmp_path / "file" / "a.png")


EVENTS = (
    events.ExpertsProgress(5, 10),
    events.StrategyStarted("exml", 4),
    events.ExperienceStarted(2, "e2", (2, 3), False),
    events.GenerationProgress(2, 30, 60, 600),
    events.BufferUpdated(2, memory(make().experiences), memory(make().experiences)),
    events.DistillationProgress(2, 100, 100, torch.tensor(0.125), 32),
    events.CheckpointWritten(2, "path"),
    events.ExperienceFinished(2, torch.nn.Identity(), memory(make().experiences)),
    events.StudentEvaluated("exml", 2, (0.5, 0.75), 0.625),
    events.BaselinesStarted(5),
    events.BaselineEvaluated("Oracle"),
)
WAITING = events.WaitingForProcess(Path("runs/first"))


JOBS = (
    events.JobsStarted(("a", "b", "c"), 4),
    events.JobProgress("a", 2, 4),
    events.JobProgress("b", 1, 4),
    events.JobEnded("a", "stream accuracy 81.2%"),
    events.JobEnded("b", error="no space left"),
    events.JobEnded("c"),
)
SCREENING = Screening(expert="theirs", scale=2e4, dependence=0.9, certainty=1.0, constancy=0.3, reasons=("too loud",))
OF_STREAMS = (
    events.ReportStarted(),
    events.WaitingForExpert(),
    events.ExpertRefused("theirs", "NaN in its weights"),
    events.ExpertScreened(1, SCREENING),
)


def test_these_are_all_events():
    assert {type(event) for event in (*EVENTS, WAITING, *OF_STREAMS, *JOBS)} == set(typing.get_args(events.Event))


def last_line(text):
    """The last line on the screen."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\x1b[?25h", "").rstrip().splitlines()[-1])


def show(upto, width=80, **settings):
    """What the display shows after some events, as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, **settings)
    with ProgressDisplay(console) as display:
        for event in EVENTS[:upto]:
            display(event)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("upto", "name", "percent", "note"),
    [
        (1, "experts", 50, ""),
        (2, "exml", 0, ""),
        (3, "exml", 25, "2/4"),
        (4, "exml", 31, "2/4 generation 30/60"),
        (5, "exml", 38, "2/4"),
        (6, "exml", 50, "2/4 distillation 100/100 loss 0.12"),
        (9, "exml", 50, "stream accuracy 62.5%"),
        (10, "baselines", 0, ""),
        (11, "baselines", 20, ""),
    ],
)
def test_the_display_shows_the_progress(upto, name, percent, note):
    last = last_line(show(upto, force_terminal=True))
    assert re.fullmatch(rf"{name} +\S* +{percent}% *(ETA [0-9:]+)? *{re.escape(note)} *", last), last


def test_time_left_and_images_per_second(monkeypatch):
    """One step per second, of 32 images, in the second of four experiences."""
    now = [0.0]
    monkeypatch.setattr("exml.runs.display.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=True)
    with ProgressDisplay(console) as display:
        display(events.StrategyStarted("exml", 4))
        display(events.ExperienceStarted(2, "e2", (2, 3), True))
        for step in range(1, 32):
            display(events.DistillationProgress(2, step, 100, torch.tensor(0.5), 32))
            now[0] += 1.0
    # 30 s for 0.655 of an experience, since generation counts as half; 2.345 experiences are left.
    note = re.escape("2/4 distillation 31/100 loss 0.5 33 img/s")
    assert re.fullmatch(rf"exml +\S+ +41% ETA 1:47 {note} *", last_line(console.file.getvalue()))


@pytest.mark.parametrize("terminal", [True, False])
def test_jobs(terminal):
    """One line per ended job; on a terminal, also one per running job and one for all."""
    console = Console(file=io.StringIO(), width=80, color_system=None, force_terminal=terminal)
    with ProgressDisplay(console) as display:
        for event in JOBS[:4]:
            display(event)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "[2/4] a: stream accuracy 81.2%\n" in text
    assert bool(re.search(r"all jobs +\S+ +56% *(ETA [0-9:]+)? *2/4", text)) == terminal  # b has a quarter
    assert bool(re.search(r"^b +\S+ +25%", text, re.MULTILINE)) == terminal
    for event in JOBS[4:]:
        display(event)
    assert "[3/4] b: failed: no space left\n" in console.file.getvalue()
    assert "[4/4] c: done\n" in console.file.getvalue()


def test_the_display_fits_into_80_columns():
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(len(EVENTS), force_terminal=True))
    assert max(map(len, text.replace("\r", "\n").splitlines())) <= 80
    assert "…" not in text


def test_the_display_is_silent_without_a_terminal():
    assert show(len(EVENTS)) == ""
    assert show(len(EVENTS), force_terminal=True, quiet=True) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_waits_and_refused_experts_are_printed_in_any_case(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with ProgressDisplay(console) as display:
        for event in (WAITING, events.StrategyStarted("stream", None), *OF_STREAMS):
            display(event)
    text = console.file.getvalue()
    assert "Another process works in runs/first; waiting for it." in text
    assert "Not learned from: theirs: NaN in its weights" in text
    assert "Suspect: theirs: too loud" in text
    assert ("waiting for an expert" in text) == terminal
