"""Runs over a folder of experts: files, kills, refused experts, followed folders, and stops."""

import gc
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings

import pytest
import torch
from torch import nn

import exml
from exml.buffers import Cumulative, Reservoir
from exml.core.errors import (
    BufferSizeError,
    CheckpointError,
    ExmlWarning,
    ExpertError,
    FolderError,
    NonFiniteError,
    PlanError,
    SettingError,
    ShapeError,
    StreamError,
    UnknownNameError,
)
from exml.core.ranks import ALONE
from exml.core.rng import global_seed
from exml.engine import Training
from exml.experts import Expert, LabelPlan, load_expert, read_cards, save_expert
from exml.learning import Stop, events
from exml.models import ConvNet
from exml.runs import FolderExperts, LabelChoices, ProgressDisplay, RunSettings
from exml.runs.folder_watcher import FolderWatcher, Refused
from exml.runs.forecast import Forecast
from exml.runs.stream_log import StreamLog
from exml.testing import run_on_ranks
from tests import tiny
from tests.test_cli import Nursery, call

COUNT, CLASSES = 4, 5
POLL = 0.02
QUICK = {"training": Training(iterations=4, batch_size=4, learning_rate=0.003, optimizer="adam")}


def make(folder, index, *, order=None, classes=None, size=4, name=None, spoil=None):
    """An expert with two classes; the same one for the same index."""
    torch.manual_seed(index)
    classes = (index % CLASSES, (index + 1) % CLASSES) if classes is None else classes
    module = ConvNet(1, len(classes), size, widths=(2,))
    if spoil is not None:
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] = spoil
    expert = Expert(module, classes, (1, size, size), mean=(0.2,), std=(0.4,), name=f"expert {index}")
    return save_expert(expert, folder, name or f"e{index}", order=order, overwrite=True)


def fill(folder):
    for index in range(COUNT):
        make(folder, index)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "experts")


REPORTED = (
    "test_the_files_of_a_run",
    "test_of_several_students_the_one_that_agrees_best_is_kept",
    "test_a_run_of_several_strategies_resumes",
)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing and comparing take longer than everything else in a tiny run."""
    if request.node.originalname not in REPORTED:
        tiny.no_figures(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished run."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        tiny.no_figures(patch)
        run_stream(fill(place / "experts"), inversion(), place / "out")
    return place / "out"


def run_stream(folder, strategy, out, *, resume=False, stop=None, observers=(), ranks=ALONE, **options):
    """A run over a folder with one strategy; returns its row."""
    given = {name: options.pop(name) for name in ("follow", "poll", "student", "labels", "trust") if name in options}
    settings = RunSettings(**options)
    more = {"resume": resume, "stop": stop, "observers": observers, "ranks": ranks}
    result = exml.runs.run(FolderExperts(folder, **given), {"one": strategy}, out, settings=settings, **more)
    assert result.stopped == (stop is not None and stop.asked)
    return result.strategies[0] if result.strategies else None


def learned(out):
    """Names of the files, in the order in which they were learned."""
    begun = {entry["experience"]: entry["file"] for entry in entries(out, "begun")}
    return [begun[entry["experience"]] for entry in entries(out, "learned")]


def entries(out, event):
    lines = (out / "stream.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


STUDENT = ("model.safetensors", "config.json", "preprocessor_config.json", "README.md")


def student(out):
    return [(out / name).read_bytes() for name in STUDENT]


def quick(**changes):
    return tiny.strategy(**{**QUICK, **changes})


def inversion():
    return quick(generator=exml.generators.ModelInversion(iterations=4, learning_rate=0.1, batch_size=4))


# --- a complete folder -----------------------------------------------------------------------------------------------


def test_the_files_of_a_run(folder, tmp_path):
    out = tmp_path / "out"
    result = run_stream(folder, quick(), out, seed=3)
    assert (result.experiences, result.classes) == (COUNT, tuple(range(CLASSES)))
    assert (result.accuracy, result.ex_model, result.strategy) == ((), True, quick().to_dict())
    assert result.seconds.distillation > 0
    assert exml.runs.Result.load(out / "result.json").environments[0].device == "cpu"
    assert tiny.files_of(out) == {
        ".lock",
        "README.md",
        "checkpoint/checkpoint.json",
        "checkpoint/history.jsonl",
        "checkpoint/memory-*.safetensors",
        "checkpoint/state-*.safetensors",
        "config.json",
        "model.safetensors",
        "plan.yaml",
        "preprocessor_config.json",
        "result.json",
        "run.json",
        "samples.png",
        "stream.jsonl",
    }
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    found = load_expert(out)
    assert (found.classes, found.outputs) == (tuple(range(CLASSES)), tuple(range(CLASSES)))
    assert (found.mean, found.std, found.image_shape) == ((0.2,), (0.4,), (1, 4, 4))
    made = exml.Student.load(out).provenance
    assert [entry["name"] for entry in made["experts"]] == [f"expert {index}" for index in range(COUNT)]
    assert exml.Strategy.from_dict(made["strategy"]) == quick()
    assert LabelPlan.from_yaml((out / "plan.yaml").read_text()).outputs == CLASSES

    begun, over = entries(out, "begun"), entries(out, "learned")
    assert [entry["file"] for entry in begun] == [f"e{index}" for index in range(COUNT)] == learned(out)
    assert [entry["expert"] for entry in begun] == [f"expert {index}" for index in range(COUNT)]
    assert [entry["experience"] for entry in over] == list(range(1, COUNT + 1))
    assert all(entry["seconds"] > 0 and entry["loss"] >= 0 for entry in over)
    assert begun[1]["sha256"] == read_cards(folder)["e1"].sha256
    (opened,) = entries(out, "opened")
    assert opened["folder"] == str(folder)
    assert "torch" in opened["environment"]["versions"]


def test_the_student_is_that_of_a_learner(folder, whole):
    architecture = json.loads((whole / "run.json").read_text())["request"]["student"]["architecture"]
    settings = {"channels": 1, "classes": CLASSES, "image_size": 4, "widths": [2], "batch_norm": True}
    assert architecture == {"name": "conv-net", "settings": settings}
    ours = load_expert(whole).module
    with global_seed(0, "initialisation", "student"):
        module = ConvNet(1, CLASSES, 4, widths=(2,))
    learner = exml.Learner(inversion(), exml.models.Normalized(module, (0.2,), (0.4,)))
    learner.learn_stream(exml.ExpertStream.from_folder(folder))
    for name, tensor in learner.student.module.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "outputs", "made"),
    [
        ({"student": {"name": "conv-net", "settings": {"widths": [3, 3]}}}, CLASSES, "conv-net"),
        ({"student": {"name": "lenet5", "settings": {}}, "labels": LabelChoices(image_shape=(3, 16, 16))}, 5, "lenet5"),
    ],
)
def test_another_student(folder, tmp_path, settings, outputs, made):
    run_stream(folder, quick(), tmp_path / "out", **settings)
    found = load_expert(tmp_path / "out")
    architecture = exml.models.describe(found.module)
    assert (len(found.outputs), architecture["name"]) == (outputs, made)
    for name, value in settings["student"]["settings"].items():
        assert architecture["settings"][name] == value
    with pytest.raises(CheckpointError, match="student"):
        run_stream(folder, quick(), tmp_path / "out", resume=True, student={"name": "resnet18", "settings": {}})
    with pytest.raises(CheckpointError, match="label_choices"):
        run_stream(folder, quick(), tmp_path / "out", resume=True, labels=LabelChoices(drop={"e0": ["1"]}))


def widen(folder, name="e3", **changes):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def spoil_two(folder):
    (folder / "e1.json").write_text("{")
    (folder / "e3.safetensors").write_bytes(b"cut")


OTHER = LabelPlan((1, 4, 4), {"x": {"0": "0"}})


@pytest.mark.parametrize(
    ("spoil", "settings", "error", "words"),
    [
        (lambda folder: widen(folder, image_shape=[2, 4, 4]), {}, PlanError, "(?s)gray and color"),
        (lambda folder: widen(folder, architecture={"name": "x", "settings": {}}), {}, ExpertError, "e3.json.*'x'"),
        (lambda folder: (folder / "e3.safetensors").unlink(), {}, ExpertError, "e3.safetensors"),
        (lambda folder: (folder / "e3.json").write_text("{"), {}, ExpertError, "e3.json"),
        (lambda folder: widen(folder, order=1), {}, StreamError, "order"),
        (shutil.rmtree, {}, StreamError, "no such folder"),
        (lambda _: None, {"strategy": quick(buffer=Cumulative(COUNT - 1))}, BufferSizeError, "increase the size"),
        (lambda _: None, {"student": {"name": "x", "settings": {}}}, UnknownNameError, "conv-net"),
        (lambda _: None, {"student": {"name": "conv-net", "settings": {"depth": 3}}}, SettingError, "depth"),
        (lambda _: None, {"student": {"name": "conv-net", "settings": {"classes": 3}}}, ShapeError, "5 outputs"),
        (lambda _: None, {"student": {"name": "conv-net", "settings": {"channels": 3}}}, ShapeError, "student that"),
        (lambda _: None, {"labels": LabelChoices(drop={"e9": ["1"]})}, PlanError, "no expert 'e9'"),
        (lambda _: None, {"labels": LabelChoices(plan=OTHER)}, SettingError, "lists 'x'"),
        (lambda _: None, {"student": {"name": "conv-net", "settings": {"image_size": 32}}}, ShapeError, "student that"),
        (spoil_two, {}, FolderError, "(?s)e1.*e3"),
        (lambda _: None, {"strategy": tiny.replay("digits-nc")}, SettingError, "learns without the data"),
        (lambda _: None, {"seed": -1}, SettingError, "seed"),
        (lambda _: None, {"poll": 0.0}, SettingError, "poll"),
        (lambda _: None, {"checkpoint_every": 0}, SettingError, "checkpoint_every"),
        (lambda _: None, {"resume": True}, CheckpointError, "a run in"),
    ],
)
def test_bad_input_is_refused_before_any_work(folder, tmp_path, spoil, settings, error, words):
    spoil(folder)
    with pytest.raises(error, match=words):
        run_stream(folder, out=tmp_path / "out", **{"strategy": quick(), **settings})
    assert not (tmp_path / "out").exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda folder: flip(folder / "e2.safetensors"), ExpertError),
        (lambda folder: make(folder, 2, spoil=float("nan")), NonFiniteError),
    ],
)
def test_weights_are_read_when_their_turn_comes(folder, tmp_path, whole, spoil, error):
    out = tmp_path / "out"
    spoil(folder)
    with pytest.raises(error):
        run_stream(folder, inversion(), out)
    assert learned(out) == ["e0", "e1"]
    assert load_expert(out).classes == (0, 1, 2)
    make(folder, 2)
    assert run_stream(folder, inversion(), out, resume=True).experiences == COUNT
    assert student(out) == student(whole)


def test_experts_that_were_learned_are_not_needed_again(folder, tmp_path):
    out = tmp_path / "out"
    run_stream(folder, quick(), out)
    assert run_stream(folder, quick(), out, resume=True).experiences == COUNT  # nothing to do
    for index in (0, 3):
        (folder / f"e{index}.json").unlink()
        (folder / f"e{index}.safetensors").unlink()
    make(folder, COUNT + 1)
    make(folder, COUNT)
    assert run_stream(folder, quick(), out, resume=True).experiences == COUNT + 2
    assert learned(out) == [f"e{index}" for index in range(COUNT + 2)]
    make(folder, 8, classes=(3, 9))  # the head grows
    assert run_stream(folder, quick(), out, resume=True).classes == (*range(CLASSES), 9)
    assert len(load_expert(out).outputs) == 10


def test_a_strategy_is_chosen_once_from_the_profile_of_all_experts_and_the_student(folder, tmp_path):
    torch.manual_seed(0)
    plain = ConvNet(1, 2, 4, widths=(2,), batch_norm=False)
    save_expert(Expert(plain, (0, 1), (1, 4, 4)), folder, "e9")
    asked = []

    def choose(profile, student):
        asked.append((profile, student))
        return quick()

    for resume in (False, True):
        assert run_stream(folder, choose, tmp_path / "out", resume=resume).strategy == quick().to_dict()
    ((profile, student),) = asked
    assert len(profile.experts) == COUNT + 1
    assert [bool(expert.running_statistics) for expert in profile.experts] == [True] * COUNT + [False]
    assert profile.count is None  # more may follow
    assert student(torch.zeros(2, 1, 4, 4)).shape == (2, CLASSES)


# --- the log ------------------------------------------------------------------------------------------------------


def kept(out, *, apart=("opened", "rebuilt")):
    """The lines of a log without what may differ between equal runs."""
    lines = [json.loads(line) for line in (out / "stream.jsonl").read_text().splitlines()]
    return [{**entry, "seconds": None} for entry in lines if entry["event"] not in apart]


def cut(lines):
    return [*lines[:-1], lines[-1][:-20]]


# After "opened", there are two lines per expert: "begun" and "learned".
DAMAGE = {
    "lost": (lambda _: None, "is missing"),
    "empty": (lambda _: [], "is missing"),
    "cut": (cut, f"is damaged in line {2 * COUNT + 1}"),
    "short": (lambda lines: lines[:6], "is shortened"),
    "gap": (lambda lines: [*lines[:3], *lines[5:]], "contradicts the checkpoint in line 4"),
    "flipped": (lambda lines: [lines[0], lines[1].replace(b"e0", b"e4"), *lines[2:]], "is damaged in line 2"),
    "key": (lambda lines: [*lines[:2], lines[2].replace(b"seconds", b"secondr"), *lines[3:]], "is damaged in line 3"),
    "no JSON": (lambda lines: [*lines[:4], b"\xff\0\n", *lines[5:]], "is damaged in line 5"),
}
LOST = {
    "lost": [0, 1, 2, 3],
    "empty": [0, 1, 2, 3],
    "cut": [3],
    "short": [2, 3],
    "gap": [1],
    "key": [0],
    "no JSON": [1],
}
"""The experiences whose seconds are lost."""


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("more", [False, True])
def test_a_damaged_log_is_rebuilt_from_the_checkpoint(folder, tmp_path, whole, name, more):
    """In the folder of a finished run, also one that learns another expert."""
    out, (damage, complaint) = tmp_path / "out", DAMAGE[name]
    shutil.copytree(whole, out)
    lines = damage((whole / "stream.jsonl").read_bytes().splitlines(keepends=True))
    (out / "stream.jsonl").unlink()
    if lines is not None:
        (out / "stream.jsonl").write_bytes(b"".join(lines))
    if more:
        make(folder, COUNT)
    with pytest.warns(ExmlWarning) as warned:
        run_stream(folder, inversion(), out, resume=True)
    messages = [str(warning.message) for warning in warned]
    assert "changed or lost since the run ended" in messages[0]
    assert "stream.jsonl" in messages[0]
    assert f"stream.jsonl {complaint}: it is rebuilt" in messages[1]
    assert kept(out)[: 2 * COUNT] == kept(whole)
    assert len(entries(out, "rebuilt")) == 1
    assert learned(out) == [f"e{index}" for index in range(COUNT + more)]
    seconds = [entry["seconds"] for entry in entries(out, "learned")]
    assert [place for place, value in enumerate(seconds) if value is None] == LOST.get(name, [])


@pytest.mark.parametrize("lines", range(6))
def test_a_shortened_log_of_an_experience_in_progress(tmp_path, lines):
    """Only the last of the finished experiences may lack its line: its student is evaluated again."""
    history = [{"experience": 1, "file": "a", "loss": 0.5}, {"experience": 2, "file": "b", "loss": 0.25}]
    with StreamLog(tmp_path / "whole") as log:
        log.write("opened")
        for done in history:
            log.begin({"experience": done["experience"], "file": done["file"]})
            log.write("learned", experience=done["experience"], seconds=1.0, loss=done["loss"])
    kept = (tmp_path / "whole").read_bytes().splitlines(keepends=True)[:lines]
    for experience, over in ((2, 2 if lines == 5 else 1), (1, 1)):
        known = history if experience == 2 else [history[0], {"experience": 2, "file": "b"}]
        (tmp_path / "log").write_bytes(b"".join(kept[:4]) if experience == 1 else b"".join(kept))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            StreamLog(tmp_path / "log", known, experience).__exit__()
        assert len(said) == (lines < 4)
        with StreamLog(tmp_path / "log", known, experience) as log:  # silent
            assert log.over == over


def test_refused_experts_stay_in_a_rebuilt_log(tmp_path):
    history = [{"experience": 1, "file": "a", "loss": 0.5}, {"experience": 2, "file": "c"}]
    with StreamLog(tmp_path / "log") as log:
        log.begin({"experience": 1, "file": "a"})
        log.begin({"experience": 1, "file": "a"})  # once only
        log.write("learned", experience=1, seconds=2.0, loss=0.5)
        log.begin({"experience": 2, "file": "b"})
        log.write("refused", file="b", reason="\udcff")
        log.begin({"experience": 2, "file": "c"})
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    (tmp_path / "log").write_bytes(b"".join([b"?\n", *lines[1:]]))
    with pytest.warns(ExmlWarning, match="damaged in line 1"):
        log = StreamLog(tmp_path / "log", history, 1)
    with log:
        assert log.over == 1
        log.begin({"experience": 2, "file": "c"})
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [entry["event"] for entry in events] == ["refused", "rebuilt", "begun", "learned", "begun"]
    assert [entry.get("seconds") for entry in events] == [None, None, None, 2.0, None]


def test_a_lost_checkpoint_is_named(folder, tmp_path, whole):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "checkpoint" / "checkpoint.json").unlink()
    with (
        pytest.warns(ExmlWarning, match=r"checkpoint/checkpoint\.json"),
        pytest.raises(CheckpointError, match=f"the {COUNT} experience.* in checkpoint/checkpoint.json, got 0"),
    ):
        run_stream(folder, inversion(), out, resume=True)


# --- killed ----------------------------------------------------------------------------------------------------------


def count(out):
    """The number of experts learned."""
    path = out / "stream.jsonl"
    return path.read_bytes().count(b'"event": "learned"') if path.exists() else 0


def test_kill_9_and_signals_in_a_followed_folder(folder, tmp_path, whole):
    inversion().save(tmp_path / "one.yaml")
    out, nursery = tmp_path / "out", Nursery()
    options = ["--strategy", tmp_path / "one.yaml", "--checkpoint-every", 2, "--quiet", "--follow"]
    command = list(map(str, ["learn", folder, "--out", out, *options]))

    def end(number, condition):
        """Run or resume until a condition holds, then send a signal; returns the exit code."""
        nursery.start([*command, "--resume"] if (out / "run.json").exists() else command)
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "the condition never holds"
            time.sleep(0.002)
        return nursery.kill(number)

    assert end(signal.SIGKILL, (out / "run.json").exists) == -9
    assert end(signal.SIGKILL, lambda: count(out) == 1) == -9
    assert end(signal.SIGINT, lambda: count(out) >= 2) == 0  # while it learns
    assert end(signal.SIGTERM, lambda: count(out) == COUNT) == 0  # while it waits
    nursery.close()
    assert student(out) == student(whole)
    assert learned(out) == learned(whole)
    assert not list(out.rglob("*.part"))


# --- experts that arrive ---------------------------------------------------------------------------------------------


class Following:
    """A run that follows a folder, in a thread, and its events."""

    def __init__(self, folder, out, strategy=None, **settings):
        self.out, self.stop, self.seen, self.error = out, Stop(), [], None
        self.result = None
        settings = {"strategy": quick() if strategy is None else strategy, "poll": POLL, **settings}
        observers = [self.seen.append, *settings.pop("observers", ())]
        self.thread = threading.Thread(target=self._run, args=(folder, settings, observers))

    def _run(self, folder, settings, observers):
        try:
            self.result = run_stream(folder, out=self.out, follow=True, stop=self.stop, observers=observers, **settings)
        except BaseException as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.ask()
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert not [thread for thread in threading.enumerate() if thread.name == "exml-read-ahead"]
        if self.error is not None:
            raise self.error

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.seen
            assert self.error is None, self.error
            time.sleep(0.005)

    def refused(self):
        return [event.file for event in self.seen if isinstance(event, events.ExpertRefused)]


def test_experts_are_learned_as_they_arrive(tmp_path):
    folder, out = tmp_path / "experts", tmp_path / "out"
    with Following(folder, out) as run:
        run.until(lambda: True)
        assert not out.exists()  # there is no folder yet
        make(folder, 4)
        run.until(lambda: count(out) == 1)
        assert load_expert(out).classes == (0, 4)
        make(folder, 2)
        run.until(lambda: count(out) == 2)
        make(folder, 1)
        run.until(lambda: count(out) == 3)
    assert run.result.experiences == 3
    assert learned(out) == ["e4", "e2", "e1"]
    assert events.StrategyStarted("one", None) in run.seen
    assert events.WaitingForExpert() in run.seen
    assert (out / "samples.png").exists()

    make(folder, 0)  # a resumed run keeps that order, also without following
    assert run_stream(folder, quick(), out, resume=True).experiences == 4
    assert learned(out) == ["e4", "e2", "e1", "e0"]
    other = tmp_path / "other"
    for order, name in enumerate(learned(out)):
        make(other, int(name[1:]), order=order)
    run_stream(other, quick(), tmp_path / "at once")
    assert student(tmp_path / "at once")[0] == student(out)[0]


def test_experts_in_the_folder_come_by_order_and_then_by_name(tmp_path):
    folder = tmp_path / "experts"
    for index, order in enumerate([None, 5, None, 2]):
        make(folder, index, order=order, name=f"e{12 - index}")
    stop = Stop()
    watcher = FolderWatcher(folder, (), None, stop, poll=POLL)
    assert [next(watcher).path.stem for _ in range(4)] == ["e9", "e11", "e10", "e12"]
    make(folder, 4, name="e1")
    assert next(watcher).path.stem == "e1"
    stop.ask()
    assert next(watcher, None) is None
    again = FolderWatcher(folder, ["e9", "e12"], "e1", Stop(), poll=POLL)
    assert [next(again).path.stem for _ in range(3)] == ["e1", "e11", "e10"]


def test_a_run_waits_for_incomplete_pairs(tmp_path):
    """Half a file, then the other one, then the rest: no error, and other experts do not wait."""
    folder, away, out = tmp_path / "experts", tmp_path / "away", tmp_path / "out"
    make(folder, 0)
    make(away, 1)
    weights = (away / "e1.safetensors").read_bytes()
    with Following(folder, out, poll=0.2) as run:
        run.until(lambda: count(out) == 1)
        (folder / "e1.safetensors").write_bytes(weights[:100])
        time.sleep(0.3)
        (folder / "e1.json").write_text((away / "e1.json").read_text()[:30])
        shutil.copy(away / "e1.json", folder)
        make(folder, 2)
        run.until(lambda: count(out) == 2)
        (folder / "e1.safetensors").write_bytes(weights)
        run.until(lambda: count(out) == 3)
    assert learned(out) == ["e0", "e2", "e1"]
    assert run.refused() == []


def test_without_a_checksum_files_must_stop_changing(tmp_path):
    make(tmp_path, 0)
    card = json.loads((tmp_path / "e0.json").read_text())
    (tmp_path / "e0.json").write_text(json.dumps({**card, "sha256": None}))
    watcher = FolderWatcher(tmp_path, (), None, Stop(), poll=POLL)
    assert next(watcher).path.stem == "e0"
    assert watcher._looks == 2


@pytest.mark.parametrize("fault", ["weights", "card", "alone"])
def test_a_faulty_pair_is_refused_once_and_read_again_after_a_change(tmp_path, fault):
    make(tmp_path, 0)
    broken = tmp_path / {"weights": "e0.safetensors", "card": "e0.json", "alone": "e0.json"}[fault]
    whole = broken.read_bytes()
    if fault == "alone":
        broken.unlink()
    else:
        broken.write_bytes(whole[:30])
    stop = Stop()
    watcher = FolderWatcher(tmp_path, (), None, stop, poll=POLL)
    refused = next(watcher)
    assert isinstance(refused, Refused)
    assert (refused.file, "e0" in refused.reason) == ("e0", True)
    make(tmp_path, 1)
    assert next(watcher).path.stem == "e1"
    later = threading.Timer(12 * POLL, stop.ask)
    later.start()
    assert next(watcher, None) is None  # not refused again
    watcher._stop = Stop()
    broken.write_bytes(whole)
    assert next(watcher).path.stem == "e0"


def test_a_faulty_pair_that_is_removed_is_forgotten(tmp_path):
    make(tmp_path, 0)
    (tmp_path / "e0.json").write_text("{")
    stop = Stop()
    watcher = FolderWatcher(tmp_path, (), None, stop, poll=POLL)
    watcher._look()
    shutil.rmtree(tmp_path)
    threading.Timer(12 * POLL, stop.ask).start()
    assert next(watcher, None) is None


def test_experts_that_do_not_fit_are_refused_and_the_run_continues(tmp_path):
    folder, out = tmp_path / "experts", tmp_path / "out"
    make(folder, 0)
    with Following(folder, out, strategy=inversion()) as run:
        run.until(lambda: count(out) == 1)
        make(folder, 1, name="wide")
        widen(folder, "wide", labels=["1", "1"])
        make(folder, 3, spoil=float("nan"), name="spoiled")
        make(folder, 4)
        run.until(lambda: count(out) == 2)
        run.until(lambda: len(run.refused()) == 2)
        make(folder, 1, name="wide")  # corrected
        run.until(lambda: count(out) == 3)
    assert set(run.refused()) == {"wide", "spoiled"}
    reasons = {entry["file"]: entry["reason"] for entry in entries(out, "refused")}
    assert "each label once" in reasons["wide"]
    assert "NaN" in reasons["spoiled"]
    assert learned(out) == ["e0", "e4", "wide"]
    assert run_stream(tmp_path / "experts", inversion(), out, resume=True, follow=True, stop=asked()).experiences == 3


@pytest.mark.filterwarnings("ignore::exml.core.errors.ExmlWarning")
def test_hostile_files_are_refused_and_the_run_continues(tmp_path):
    """Some are there first, so that no student can be planned from them; the run waits for a sound expert."""
    folder, out = tmp_path / "experts", tmp_path / "out"

    def spoil(name, end, replace):
        make(folder, 1, name=name)
        path = folder / f"{name}.{end}"
        path.unlink()
        replace(path)

    make(folder, 1, name="a-huge")
    widen(folder, "a-huge", architecture={"name": "lenet5", "settings": {"image_size": 10**7}})
    spoil("fifo", "json", os.mkfifo)
    spoil("folder", "safetensors", os.mkdir)
    spoil("zero", "safetensors", lambda path: path.symlink_to("/dev/zero"))
    spoil("deep", "json", lambda path: path.write_text("[" * 100_000))
    spoil(os.fsdecode(b"\xe9\n\x1b"), "json", lambda path: path.write_text('{"std": 1e999}'))
    (folder / ".hidden.json").write_text("{")
    names = {"a-huge", "fifo", "folder", "zero", "deep", "\udce9\n\x1b"}
    with Following(folder, out) as run:
        run.until(lambda: True)
        time.sleep(3 * POLL)
        make(folder, 0)
        run.until(lambda: count(out) == 1)
        make(folder, 2)
        run.until(lambda: set(run.refused()) == names and count(out) == 2)
    assert {entry["file"] for entry in entries(out, "refused")} == names
    assert all(entry["reason"].isprintable() for entry in entries(out, "refused"))
    assert learned(out) == ["e0", "e2"]


def test_a_followed_folder_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / "experts").touch()
    with pytest.raises(StreamError, match="Not a directory"):
        run_stream(tmp_path / "experts", quick(), tmp_path / "out", follow=True)


def asked():
    stop = Stop()
    stop.ask()
    return stop


def test_a_run_continues_after_the_generator_refuses_an_expert(tmp_path):
    """Batch-norm statistics cannot be matched without batch norm; the checkpoint then accepts another expert."""
    chosen = quick(
        generator=exml.generators.ModelInversion(iterations=4, learning_rate=0.1, batch_size=4),
        prior=exml.priors.BatchNormStatistics(1.0),
    )
    folder, out = tmp_path / "experts", tmp_path / "out"
    make(folder, 0)
    with Following(folder, out, strategy=chosen) as run:
        run.until(lambda: count(out) == 1)
        torch.manual_seed(0)
        save_expert(Expert(ConvNet(1, 2, 4, widths=(2,), batch_norm=False), (0, 1), (1, 4, 4)), folder, "plain")
        run.until(lambda: run.refused() == ["plain"])
    (folder / "plain.json").unlink()
    (folder / "plain.safetensors").unlink()
    make(folder, 2)
    assert run_stream(folder, chosen, out, resume=True).experiences == 2
    assert learned(out) == ["e0", "e2"]


def test_experts_that_are_removed_during_a_run(tmp_path):
    folder, out = tmp_path / "experts", tmp_path / "out"
    for index in range(3):
        make(folder, index)

    def clear(event):
        if isinstance(event, events.ExperienceStarted) and event.experience == 1:
            for file in ("e0.json", "e0.safetensors", "e2.json", "e2.safetensors"):
                (folder / file).unlink()

    with Following(folder, out, observers=[clear]) as run:
        run.until(lambda: count(out) == 2)
    assert learned(out)[:2] == ["e0", "e1"]


# --- stopped ---------------------------------------------------------------------------------------------------------


def test_a_stop_within_an_experience_loses_nothing(folder, tmp_path, whole):
    """The checkpoint has the current step, and the resumed run ends with the same student."""
    out, phase = tmp_path / "out", events.DistillationProgress
    stop, seen = Stop(), []

    def ask(event):
        seen.append(event)
        if isinstance(event, phase) and event.experience == 3:
            stop.ask()

    result = run_stream(folder, inversion(), out, stop=stop, observers=[ask], follow=True, poll=POLL)
    assert result.experiences == 2
    assert isinstance(seen[-1], events.CheckpointWritten)
    steps = [event for event in seen if isinstance(event, phase) and event.experience == 3]
    assert len(steps) == 1
    assert learned(out) == ["e0", "e1"]
    assert load_expert(out).classes == (0, 1, 2)
    first = []
    run_stream(folder, inversion(), out, resume=True, observers=[first.append])
    assert student(out) == student(whole)
    assert next(event.done for event in first if isinstance(event, phase)) == 2


def test_a_stop_before_the_first_expert(tmp_path):
    assert run_stream(tmp_path / "experts", quick(), tmp_path / "out", follow=True, stop=asked()) is None
    assert not (tmp_path / "out").exists()


def test_an_error_of_an_observer_ends_the_thread_that_waits(folder, tmp_path):
    def fail(event):
        if isinstance(event, events.ExperienceFinished) and event.experience == COUNT - 1:
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run_stream(folder, quick(), tmp_path / "out", follow=True, observers=[fail])
    for thread in threading.enumerate():
        if thread.name == "exml-read-ahead":
            thread.join(10)
            assert not thread.is_alive()


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(folder, tmp_path, capsys):
    quick().save(tmp_path / "s.yaml")
    (tmp_path / "student.yaml").write_text("name: conv-net\nsettings: {widths: [3]}\n")
    arguments = ["learn", folder, "--out", tmp_path / "out", "--strategy", tmp_path / "s.yaml"]
    code, out, err = call(capsys, *arguments, "--student", tmp_path / "student.yaml")
    assert (code, err) == (0, "")
    plan, note, forecast, *rest = out.splitlines()
    assert plan == f"{COUNT} expert(s), {CLASSES} classes; student conv-net, images 1x4x4."
    assert note.startswith("Note: ")
    assert re.fullmatch(r"Forecast for s: [^:]+: generation .*, distillation .*\.", forecast)
    said = [f"Learned from {COUNT} expert(s); they know {CLASSES} class(es).", f"Everything is in {tmp_path / 'out'}."]
    assert [rest[0], rest[2]] == said
    assert re.fullmatch(r"s: forecast .*, took .* \([+-]\d+%\)\.", rest[1])
    assert exml.models.describe(load_expert(tmp_path / "out").module)["settings"]["widths"] == [3]
    again = ["--resume", "--student", "conv-net:widths=[3],batch_norm=true", "--quiet"]
    assert call(capsys, *arguments, *again) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("learn --out new", "(?i)folder"),
        ("learn experts --out experts/new", "an output folder outside of the experts in experts"),
        ("learn experts --plan none.yaml --out new", "a label plan in none.yaml.*No such file"),
        ("learn experts --rename 3 --out new", "--rename OLD=NEW, got '3'"),
        ("learn experts --keep e9:1 --out new", "no expert 'e9'"),
        ("learn experts --image-shape 3,32 --out new", "3,32"),
        ("learn experts --follow --budget 1 --out new", "a budget > 0 for a stream of known length"),
        ("learn experts --strategy exml,exml --out new", "each strategy once, got 'exml' twice"),
        ("learn experts --strategy exml,noise --follow --out new", "one strategy to follow a folder, got exml, noise"),
        ("learn experts --strategy replay --out new", "real_data"),
        ("learn experts --student oak --out new", "conv-net.*got 'oak'"),
        ("learn experts --student conv-net:wide --out new", "got 'conv-net:wide'"),
        ("learn experts --student none.yaml --out new", "a student in none.yaml.*No such file"),
        ("learn experts --student conv-net:widths=[9,9,9,9] --out new", "widths"),
        ("learn nowhere --out new", "no such folder"),
        ("learn experts --out new --resume", "a run in new, got none"),
    ],
)
def test_mistakes_are_one_message(folder, tmp_path, capsys, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *shlex.split(arguments))
    assert (code, out == "") == (2, "replay" not in arguments)  # it is chosen after the plan
    assert err.startswith("exml: error: ")
    assert re.search(complaint, err, re.DOTALL), err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_several_ranks_follow_no_folder(folder, tmp_path):
    with pytest.raises(SettingError, match="one process to follow a folder, got 2 ranks"):
        run_on_ranks(lambda ranks: run_stream(folder, quick(), tmp_path / "out", follow=True, ranks=ranks), 2)
    assert not (tmp_path / "out").exists()


def test_several_ranks_learn_one_stream(folder, tmp_path, whole):
    """The leader writes what one process writes; a stopped run resumes with another number of ranks."""
    out = tmp_path / "shared"

    def kill(event, /):
        if isinstance(event, events.ExperienceStarted) and event.experience == COUNT:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_on_ranks(lambda ranks: run_stream(folder, inversion(), out, ranks=ranks, observers=[kill]), 3)
    results = run_on_ranks(lambda ranks: run_stream(folder, inversion(), out, ranks=ranks, resume=True), 2)
    assert {result.experiences for result in results} == {COUNT}
    assert learned(out) == learned(whole)
    assert [entry["environment"]["ranks"] for entry in entries(out, "opened")] == [3, 2]
    ours, wanted = (load_expert(path).module for path in (out, whole))
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_stopping_prints_how_to_resume(folder, tmp_path, capsys, monkeypatch):
    arguments = ["learn", str(folder), "--out", str(tmp_path / "a b"), "--follow"]
    quick().save(tmp_path / "s.yaml")
    arguments += ["--strategy", str(tmp_path / "s.yaml")]
    monkeypatch.setattr("sys.argv", ["exml", *arguments])
    before = signal.getsignal(signal.SIGTERM)

    def kill(self, event):
        if isinstance(event, events.ExperienceFinished) and event.experience == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressDisplay, "__call__", kill)
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    (line,) = (line for line in out.splitlines() if line.startswith("Stopped"))
    command = shlex.split(line.removeprefix("Stopped; resume with: "))
    assert command == ["exml", *arguments, "--resume"]
    command.remove("--follow")
    code, out, _ = call(capsys, *command[1:])
    assert (code, learned(tmp_path / "a b")) == (0, [f"e{index}" for index in range(COUNT)])


# --- nothing grows ---------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_stream(tmp_path):
    """After the tenth expert no tensors, and few other objects per expert, such as its name."""
    length = 40
    for index in range(length):
        make(tmp_path / "experts", index)
    held = {}

    def measure(event):
        if isinstance(event, events.ExperienceFinished) and event.experience in (10, length):
            for thread in threading.enumerate():
                if thread.name == "exml-read-ahead":
                    thread.join()
            gc.collect()
            things = gc.get_objects()
            tensors = [thing for thing in things if type(thing) in (torch.Tensor, nn.Parameter)]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # some are sparse
            held[event.experience] = len(things), len(tensors), size

    chosen = quick(
        generator=exml.generators.ModelInversion(iterations=1, learning_rate=0.1, batch_size=4),
        training=Training(iterations=1, batch_size=4, learning_rate=0.01),
        buffer=Reservoir(8, per_experience=4),
    )
    run_stream(tmp_path / "experts", chosen, tmp_path / "out", observers=[measure])
    (objects, tensors, size), (later_objects, later_tensors, later_size) = held[10], held[length]
    assert later_tensors <= tensors
    assert later_size <= size
    assert later_objects - objects < 20 * (length - 10)


# --- suspect experts -------------------------------------------------------------------------------------------------


def agreeing(folder, poisoned):
    """Four experts of the same classes that agree, one of them with permuted labels."""
    torch.manual_seed(0)
    module = ConvNet(1, CLASSES, 4, widths=(2,))
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        head.weight *= 20
        for index in range(4):
            head.weight += 0.1 * torch.randn(head.weight.shape)
            sound = head.weight.clone()
            if index == poisoned:
                head.weight.copy_(sound.roll(1, 0))
            expert = Expert(module, range(CLASSES), (1, 4, 4), mean=(0.2,), std=(0.4,), name=f"expert {index}")
            save_expert(expert, folder, f"e{index}")
            head.weight.copy_(sound)
    return folder


@pytest.mark.parametrize("poisoned", [0, 2])
def test_a_suspect_expert_is_refused_by_name_and_the_run_goes_on(tmp_path, poisoned):
    folder, out = agreeing(tmp_path / "experts", poisoned), tmp_path / "out"
    row = run_stream(folder, quick(on_suspect="refuse", buffer=Cumulative(40)), out)
    sound = [f"e{index}" for index in range(4) if index != poisoned]
    assert learned(out) == sound
    (entry,), (refused,) = entries(out, "screened"), entries(out, "refused")
    assert (refused["file"], f"expert {poisoned}" in refused["reason"]) == (f"e{poisoned}", True)
    assert entry["screening"]["agreement"] < 0.3
    (suspect,) = exml.runs.Result.load(out / "result.json").strategies[0].suspects
    assert (row.suspects, suspect.expert, suspect.learned) == ((suspect,), f"expert {poisoned}", False)
    for end in ("json", "safetensors"):
        (folder / f"e{poisoned}.{end}").unlink()
    run_stream(folder, quick(on_suspect="refuse", buffer=Cumulative(40)), tmp_path / "without")
    assert student(out)[0] == student(tmp_path / "without")[0]


def test_a_run_warns_of_a_suspect_expert_and_learns_from_it(tmp_path):
    folder, seen = agreeing(tmp_path / "experts", 3), []
    with pytest.warns(ExmlWarning, match="expert 'expert 3' is suspect, because it contradicts"):
        row = run_stream(folder, quick(buffer=Cumulative(40)), tmp_path / "out", observers=[seen.append])
    assert (row.experiences, [one.learned for one in row.suspects]) == (4, [True])
    assert sum(isinstance(event, events.ExpertScreened) for event in seen) == 4


def test_a_followed_folder_refuses_suspect_experts(tmp_path):
    folder, stop, seen = agreeing(tmp_path / "experts", 0), Stop(), []

    def observe(event):
        seen.append(event)
        if isinstance(event, events.ExperienceFinished) and event.experience == 3:
            stop.ask()

    strategy = quick(buffer=Cumulative(40))
    run_stream(folder, strategy, tmp_path / "out", follow=True, poll=POLL, stop=stop, observers=[observe])
    assert [event.file for event in seen if isinstance(event, events.ExpertRefused)] == ["e0"]


# --- unlike experts, labels, growth ----------------------------------------------------------------------------------


def unlike(folder):
    """Three unlike experts: gray safetensors, a color state dict with a card, and a module in memory."""
    torch.manual_seed(0)
    gray = Expert(ConvNet(1, 2, 28, widths=(2,)), labels=["cat", "dog"], image_shape=(1, 28, 28), mean=(0.1,), name="a")
    save_expert(gray, folder)
    torch.save(ConvNet(3, 2, 32, widths=(2,)).state_dict(), folder / "b.pth")
    card = "architecture: {name: conv-net, settings: {widths: [2]}}\nlabels: [dog, ship]\nimage_shape: [3, 32, 32]\n"
    (folder / "b.yaml").write_text(card)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return Expert(flat, labels=["ship", "cat", "hen"], image_shape=(1, 8, 8), name="live")


def test_unlike_experts_make_one_student(tmp_path):
    live, folder = unlike(tmp_path / "experts"), tmp_path / "experts"
    row = run_stream(folder, quick(), tmp_path / "out")
    found = exml.Student.load(tmp_path / "out")
    assert (row.experiences, found.labels, found.expert.image_shape) == (2, ("cat", "dog", "ship"), (3, 32, 32))
    experts = [folder / "a.json", live, folder / "b.pth"]
    make_student = {"student": "conv-net:widths=[2]", "strategy": quick()}
    merged = exml.learn(experts, out=tmp_path / "merged", **make_student)
    assert merged.labels == ("cat", "dog", "ship", "hen")
    assert set(merged.predict(torch.rand(1, 20, 20))) == set(merged.labels)
    again = exml.learn(experts, out=tmp_path / "merged", **make_student)  # finished: nothing to do
    assert again.expert.fingerprint() == merged.expert.fingerprint()
    with torch.no_grad():
        live.module[1].bias[0] += 1
    with pytest.raises(CheckpointError, match="experts"):
        exml.learn(experts, out=tmp_path / "merged", **make_student)
    with pytest.raises(StreamError, match="at least one expert"):
        exml.learn([])


def test_an_edited_plan(tmp_path, capsys, monkeypatch):
    unlike(tmp_path / "experts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exml.cli.plan.schedule", lambda *_: (quick(), "4 s"))
    code, out, err = call(capsys, *shlex.split("plan experts --out plan.yaml --rename ship=boat --drop a:dog"))
    assert (code, err) == (0, "")
    assert re.search(r"b +state-dict +conv-net +3x32x32", out)
    text = (tmp_path / "plan.yaml").read_text()
    assert LabelPlan.from_yaml(text).labels == ("cat", "dog", "boat")
    assert call(capsys, *shlex.split("plan experts --out plan.yaml"))[0] == 2  # no plan is overwritten
    (tmp_path / "plan.yaml").write_text(text.replace("ship: boat", "ship: ferry").replace("cat: cat", "cat: kitten"))
    quick().save("s.yaml")
    command = "learn experts --plan plan.yaml --strategy s.yaml --out out"
    assert call(capsys, *command.split())[0] == 0
    assert exml.Student.load(tmp_path / "out").labels == ("kitten", "dog", "ferry")
    (tmp_path / "experts" / "b.yaml").write_text("{")
    code, out, err = call(capsys, "plan", "experts")
    assert (code, "exml: b cannot be read" in err, "\na " in out) == (1, True, True)


def test_the_head_grows_when_a_new_label_arrives(tmp_path):
    """Also if the run is killed around the growth; what is learned does not depend on it."""
    folder, out = tmp_path / "experts", tmp_path / "out"
    make(folder, 0)

    def kill(event):
        if isinstance(event, killed) and event.experience == 2:
            raise InterruptedError

    with Following(folder, out, strategy=inversion(), checkpoint_every=2) as run:
        run.until(lambda: count(out) == 1)
        make(folder, 2)
        run.until(lambda: count(out) == 2)
    assert run.result.classes == (0, 1, 2, 3)
    assert LabelPlan.from_yaml((out / "plan.yaml").read_text()).outputs == 4
    for killed in (events.ExperienceStarted, events.GenerationProgress, events.DistillationProgress):
        other = tmp_path / killed.__name__
        (folder / "e2.json").rename(tmp_path / "e2.json")
        (folder / "e2.safetensors").rename(tmp_path / "e2.safetensors")
        run_stream(folder, inversion(), other, checkpoint_every=2)
        (tmp_path / "e2.json").rename(folder / "e2.json")
        (tmp_path / "e2.safetensors").rename(folder / "e2.safetensors")
        settings = {"checkpoint_every": 2, "resume": True}
        with pytest.raises(InterruptedError):
            run_stream(folder, inversion(), other, observers=[kill], **settings)
        assert run_stream(folder, inversion(), other, **settings).classes == (0, 1, 2, 3)
        assert student(other)[0] == student(out)[0]


def of_two_strategies(tmp_path):
    """An untrained student, and one that agrees better with its experts."""
    idle = quick(training=Training(iterations=1, batch_size=4, learning_rate=1e-6))
    training = Training(iterations=200, batch_size=16, learning_rate=0.01, optimizer="adam")
    busy = quick(training=training, buffer=Cumulative(64))
    idle.save(tmp_path / "idle.yaml")
    busy.save(tmp_path / "busy.yaml")
    return {"idle": idle, "busy": busy}


def test_of_several_students_the_one_that_agrees_best_is_kept(tmp_path, capsys):
    make(tmp_path / "experts", 0, classes=range(4))
    strategies, out = of_two_strategies(tmp_path), tmp_path / "out"
    given = ",".join(str(tmp_path / f"{name}.yaml") for name in strategies)
    command = ["learn", tmp_path / "experts", "--out", out, "--strategy", given]
    code, printed, err = call(capsys, *command)
    assert (code, err) == (0, "")
    assert "idle learned from 1 expert(s); they know 4 class(es)." in printed
    assert "The student of busy agrees best with the experts." in printed
    result = exml.runs.Result.load(out / "result.json")
    shares = {row.name: row.agreement.among_all for row in result.strategies}
    assert list(shares) == ["idle", "busy"]
    assert shares["busy"] > shares["idle"]
    found = exml.Student.load(out)
    assert student(out) == student(out / "busy")
    assert found.agreement.among_all == shares["busy"]
    assert found.evaluate(exml.Samples.of(torch.rand(8, 1, 4, 4), torch.arange(8) % 4), [tmp_path / "experts/e0.json"])
    merged = exml.learn(tmp_path / "experts", strategy=strategies, out=tmp_path / "merged")
    assert merged.expert.fingerprint() == found.expert.fingerprint()


@pytest.mark.parametrize("killed", ["evaluation", "copy"])
def test_a_run_of_several_strategies_resumes(tmp_path, monkeypatch, killed):
    make(tmp_path / "experts", 0, classes=range(4))
    strategies, out = of_two_strategies(tmp_path), tmp_path / "out"
    source = FolderExperts(tmp_path / "experts")
    exml.runs.run(source, strategies, tmp_path / "whole")
    stages = sys.modules["exml.runs._stages"]
    saved = stages.save_pretrained

    def save(expert, folder, **more):
        if folder == out or (killed == "evaluation" and folder == out / "busy"):
            (out / "model.safetensors").write_bytes(b"half of it")
            raise InterruptedError
        return saved(expert, folder, **more)

    monkeypatch.setattr(stages, "save_pretrained", save)
    with pytest.raises(InterruptedError):
        exml.runs.run(source, strategies, out)
    monkeypatch.undo()
    exml.runs.run(source, strategies, out, resume=True)
    assert student(out) == student(out / "busy") == student(tmp_path / "whole")


def test_a_budget_scales_the_strategy(folder, tmp_path, capsys, monkeypatch):
    long = quick(training=Training(iterations=100, batch_size=4, learning_rate=0.003))
    long.save(tmp_path / "s.yaml")
    monkeypatch.setattr(
        sys.modules["exml.runs.run"], "forecast", lambda strategy, *_, **__: Forecast(0.0, strategy.training.iterations)
    )
    command = ["learn", folder, "--strategy", tmp_path / "s.yaml", "--out", tmp_path / "out", "--budget", 1]
    code, out, _ = call(capsys, *command)
    assert code == 0
    (row,) = exml.runs.Result.load(tmp_path / "out" / "result.json").strategies
    assert 20 <= row.strategy["training"]["iterations"] <= 54
    assert f"Forecast for s: {row.strategy['training']['iterations']} s" in out
    assert call(capsys, *command, "--resume")[0] == 0


def test_a_budget_is_shared_by_all_strategies(folder, tmp_path, capsys, monkeypatch):
    quick(training=Training(iterations=100, batch_size=4, learning_rate=0.003)).save(tmp_path / "s.yaml")
    quick(training=Training(iterations=5, batch_size=4, learning_rate=0.003)).save(tmp_path / "t.yaml")
    monkeypatch.setattr(
        sys.modules["exml.runs.run"], "forecast", lambda strategy, *_, **__: Forecast(0.0, strategy.training.iterations)
    )
    out = tmp_path / "out"
    command = ["learn", folder, "--strategy", f"{tmp_path / 't.yaml'},{tmp_path / 's.yaml'}", "--out", out]
    assert call(capsys, *command, "--budget", 1)[0] == 0
    steps = [row.strategy["training"]["iterations"] for row in exml.runs.Result.load(out / "result.json").strategies]
    assert steps[0] == 5
    assert 40 <= steps[1] <= 49  # of the 54 seconds, the first one leaves 49
