"""Zoos of experts: the same bits however they are made, nothing made twice, and every fault named."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from exml import cli, runs, scenarios
from exml.core.errors import CheckpointError, DataError, ExmlError, NonFiniteError, RankError, SettingError, StreamError
from exml.core.serialization import from_plain
from exml.experts import ExpertStream, read_card
from exml.learning.events import JobEnded, JobProgress, JobsStarted, WaitingForProcess
from exml.runs import Ended, Failure, LocalProcesses, ZooEvaluation, evaluate_zoo, stream_folder, train_zoo
from exml.runs.evaluation import BASELINES, evaluate_baseline
from exml.runs.folder_lock import lock
from exml.scenarios.scenario import _ExpertJob
from tests import tiny

STREAMS = ("tiny-joint-epochs-1", "tiny-nc")


@pytest.fixture(autouse=True, scope="module")
def _scenarios():
    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small zoo, trained once."""
    folder = tmp_path_factory.mktemp("made")
    train_zoo(["tiny-nc", "tiny-joint:epochs=1"], folder, seeds=range(2), workers=1)
    return folder


@pytest.fixture(scope="module")
def sound(made, tmp_path_factory):
    """What the small zoo evaluates to."""
    return evaluate_zoo(shutil.copytree(made, tmp_path_factory.mktemp("sound") / "zoo"))


@pytest.fixture
def zoo(made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(made, tmp_path / "zoo")


def files(folder):
    paths = (path for path in Path(folder).rglob("expert-*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


def forbidden(*_, **__):
    raise AssertionError("it was trained again")


def test_a_stream_has_a_folder_and_an_expert_two_files(made):
    assert {path.name for path in made.iterdir()} == {f"{name}-{seed}" for name in STREAMS for seed in (0, 1)}
    assert stream_folder("cifar10-nc:epochs=4,schedule=cosine", 3) == "cifar10-nc-epochs-4-schedule-cosine-3"
    assert set(files(made / "tiny-nc-0")) == {
        f"expert-{number}.{end}" for number in (1, 2) for end in ("json", "safetensors")
    }


def test_a_card_says_all_of_its_expert(made):
    validation = scenarios.load("tiny-nc", 1, "validation")
    experts = ExpertStream.from_folder(made / "tiny-nc-1")
    for place, (expert, experience) in enumerate(zip(experts, validation.experiences, strict=True), 1):
        path = made / "tiny-nc-1" / f"expert-{place}.json"
        card = json.loads(path.read_text())
        assert (card["classes"], card["order"]) == (list(experience.classes), place)
        assert (card["mean"], card["std"]) == (list(validation.mean), list(validation.std))
        assert card["sha256"] == hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()
        assert card["training"]["settings"]["epochs"] == validation.training.epochs
        assert card["training"]["accuracy"] == {"split": "validation", "images": len(experience.test)}
        own = torch.tensor(card["classes"])
        best = own[expert.logits(experience.test.images).detach()[:, own].argmax(1)]
        assert card["accuracy"] == pytest.approx(float((best == experience.test.labels).double().mean()))


def test_they_are_the_experts_of_the_scenario(made, tmp_path):
    scenarios.load("tiny-nc", 1).train_experts(1, tmp_path)
    for number in (1, 2):
        name = f"expert-{number}.safetensors"
        assert (tmp_path / name).read_bytes() == (made / "tiny-nc-1" / name).read_bytes()


def test_what_is_there_is_not_trained_again(zoo, monkeypatch):
    before = files(zoo)
    (zoo / "tiny-nc-1" / "expert-2.json").unlink()
    trained, train = [], _ExpertJob.__call__
    monkeypatch.setattr(_ExpertJob, "__call__", lambda job, *rest: trained.append(job.index) or train(job, *rest))
    train_zoo(["tiny-nc", "tiny-joint:epochs=1"], zoo, seeds=range(2), workers=1)
    assert trained == [2]
    assert files(zoo) == before


def test_threads_are_as_before(zoo):
    torch.set_num_threads(2)
    try:
        train_zoo(["tiny-nc"], zoo, workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_one_that_fails_does_not_end_the_others(tmp_path):
    told = []
    with pytest.raises(NonFiniteError, match="tiny-nc:learning_rate=1e30-1"):
        train_zoo(["tiny-nc:learning_rate=1e30", "tiny-joint"], tmp_path, workers=1, observers=[told.append])
    names = [f"tiny-nc-learning_rate-1e30-0/expert-{number}" for number in (1, 2)] + ["tiny-joint-0/expert-1"]
    assert told[0] == JobsStarted(tuple(names), total=3)
    over = [event for event in told if isinstance(event, JobEnded)]
    assert [event.name for event in over] == names
    assert ["a finite loss" in (event.error or "") for event in over] == [True, True, False]
    accuracy = read_card(tmp_path / "tiny-joint-0" / "expert-1.json").accuracy
    assert over[-1].summary == f"{accuracy:.1%} on its validation images"
    assert told[-3:-1] == [JobProgress(names[-1], done, 2) for done in (1, 2)]


def test_several_processes_make_the_same_bits_and_tell_the_same(tmp_path):
    names = ["digits-joint:epochs=1", "digits-joint:epochs=1,learning_rate=1e30"]
    told = {1: [], 2: []}
    for workers in (1, 2):
        with pytest.raises(NonFiniteError, match="lower the learning rate") as caught:
            train_zoo(names, tmp_path / str(workers), workers=workers, observers=[told[workers].append])
        assert (caught.value.expected, caught.value.remedy[:5]) == (
            "a finite loss (expert 'digits-joint:epochs=1,learning_rate=1e30-1', epoch 1)",
            "lower",
        )
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert len(files(tmp_path / "1")) == 2
    one, two = (sorted(str(event) for event in told[workers]) for workers in (1, 2))
    assert one == two


def test_a_worker_that_dies_is_an_error(tmp_path, monkeypatch):
    def die(self, jobs, resources, tell, /):
        for job in jobs:
            tell(Ended(job.name, Failure("killed by SIGKILL", "")))

    monkeypatch.setattr(LocalProcesses, "__call__", die)
    with pytest.raises(RankError, match="got killed by SIGKILL; remedy: use fewer workers"):
        train_zoo(["tiny-nc"], tmp_path, workers=2)


def test_a_zoo_that_was_stopped_resumes(made, tmp_path):
    def stop(event):
        if isinstance(event, JobProgress) and event.name == "tiny-nc-1/expert-1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_zoo(["tiny-nc"], tmp_path, seeds=range(2), workers=1, observers=[stop])
    assert 4 <= len(files(tmp_path)) < 8
    train_zoo(["tiny-nc"], tmp_path, seeds=range(2), workers=1)
    assert files(tmp_path) == {name: file for name, file in files(made).items() if name.startswith("tiny-nc")}


def test_another_process_is_waited_for(zoo):
    held = lock(zoo / "tiny-nc-0", None)
    told = []

    def observe(event):
        told.append(event)
        if isinstance(event, WaitingForProcess):
            held.close()

    train_zoo(["tiny-nc"], zoo, workers=1, observers=[observe])
    assert told[0] == WaitingForProcess(zoo / "tiny-nc-0")


@pytest.mark.parametrize(
    ("names", "settings", "error", "message"),
    [
        ([], {}, SettingError, "a scenario"),
        (["tiny-nc", "tiny-nc"], {}, SettingError, "tiny-nc more than once"),
        (["tiny-nc"], {"seeds": (1, 0, 1)}, SettingError, "1 more than once"),
        (["tiny-nc"], {"seeds": ()}, SettingError, "a seed"),
        (["tiny-nc"], {"seeds": (-1,)}, SettingError, "seeds -1"),
        (["tiny-nc"], {"workers": 0}, SettingError, "0 worker"),
        (["tiny-nc"], {"device": "abacus"}, SettingError, "abacus"),
        (["tiny-nc", "tiny"], {}, ExmlError, "'tiny'"),
        (["tiny-nc", "tiny-nc:epochs=none"], {}, SettingError, "epochs"),
        (["tiny-nc", "mnist-nc"], {}, DataError, "EXML_DATA"),
    ],
)
def test_mistakes_are_found_before_any_work(tmp_path, monkeypatch, names, settings, error, message):
    monkeypatch.setenv("EXML_DATA", str(tmp_path / "nothing"))
    with pytest.raises(error, match=message):
        train_zoo(names, tmp_path / "zoo", **settings)
    assert not (tmp_path / "zoo").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "zoo").write_text("a file")
    with pytest.raises(CheckpointError, match="zoo"):
        train_zoo(["tiny-nc"], tmp_path / "zoo", workers=1)


def test_accuracies_are_those_of_the_experts_and_of_the_baselines(zoo):
    told = []
    found = evaluate_zoo(zoo, split="validation", progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (found.split, found.faults) == ("validation", {})
    by_name = {stream.folder: stream for stream in found.streams}
    assert list(by_name) == [f"{name}-{seed}" for name in STREAMS for seed in (0, 1)]
    for stream in found.streams:
        for expert in stream.experts:
            card = read_card(zoo / stream.folder / f"{expert.name}.json")
            assert (expert.accuracy, expert.classes) == (pytest.approx(card.accuracy), card.classes)
    scenario, experts = scenarios.load("tiny-nc", 1, "validation"), ExpertStream.from_folder(zoo / "tiny-nc-1")
    rows = {row.name: row for row in by_name["tiny-nc-1"].baselines}
    assert list(rows) == list(BASELINES)
    for name, baseline in BASELINES.items():
        assert rows[name].stream_accuracy == pytest.approx(evaluate_baseline(baseline, experts, scenario).stream)
    joint = {row.name: row for row in by_name["tiny-joint-epochs-1-0"].baselines}
    assert joint["Min. Entropy"].stream_accuracy is None
    assert joint["Oracle"].stream_accuracy == pytest.approx(by_name["tiny-joint-epochs-1-0"].experts[0].accuracy)
    assert from_plain(json.loads((zoo / "evaluation.json").read_text()), ZooEvaluation) == found


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def change(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "spoil", "faults"),
    [
        ("expert-2.safetensors", truncate, {"expert-2": "complete weights"}),
        ("expert-2.safetensors", Path.unlink, {"expert-2": "No such file"}),
        ("expert-1.json", truncate, {"expert-1": "valid JSON"}),
        ("expert-1.json", Path.unlink, {"expert-1": "expert-1.json"}),
        ("expert-1.json", change(mean=[0.5]), {"expert-1": "its card was changed"}),
        ("expert-2.json", change(training={"scenario": "tiny-nc", "seed": 9}), {"expert-2": "('tiny-nc', 9)"}),
        ("expert-2.json", change(training={}), {"expert-2": "None"}),
    ],
)
def test_a_fault_is_named_and_the_others_are_evaluated(zoo, sound, capsys, file, spoil, faults):
    spoil(zoo / "tiny-nc-1" / file)
    code, out, err = call(capsys, "experts", "evaluate", zoo)
    found = from_plain(json.loads((zoo / "evaluation.json").read_text()), ZooEvaluation)
    assert code == 1
    assert {f"tiny-nc-1/{name}" for name in faults} == set(found.faults)
    for name, part in faults.items():
        assert part in found.faults[f"tiny-nc-1/{name}"]
        assert f"exml: {zoo / 'tiny-nc-1' / name}: " in err
    assert out.count("fault") == 1
    assert found.streams[:3] == sound.streams[:3]
    before = {expert.name: expert for expert in sound.streams[3].experts}
    for expert in found.streams[3].experts:
        assert (expert == before[expert.name]) == (expert.name not in faults)
    assert found.streams[3].baselines == ()


def test_an_expert_that_is_not_there_and_a_stream_of_somebody_else(zoo):
    for path in (zoo / "tiny-nc-0").glob("expert-2.*"):
        path.unlink()
    for number in (1, 2):
        change(training={})(zoo / "tiny-nc-1" / f"expert-{number}.json")
    faults = evaluate_zoo(zoo).faults
    assert set(faults) == {"tiny-nc-0/expert-2", "tiny-nc-1/expert-1", "tiny-nc-1/expert-2"}
    assert faults["tiny-nc-0/expert-2"] == "its files are missing"
    assert "does not state the scenario" in faults["tiny-nc-1/expert-1"]


def test_no_zoo_is_an_error(tmp_path):
    with pytest.raises(StreamError, match="no such folder"):
        evaluate_zoo(tmp_path / "zoo")
    with pytest.raises(StreamError, match="got none"):
        evaluate_zoo(tmp_path)


def test_the_commands(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "zoo"
    code, out, err = call(capsys, "experts", "train", "tiny-nc", "--seeds", 2, "--out", folder, "--workers", 1)
    assert (code, out) == (0, f"2 stream(s) of experts in {folder}.\n")
    assert err.splitlines()[0].startswith("[1/4] tiny-nc-0/expert-1: ")
    assert len(err.splitlines()) == 4
    assert call(capsys, "experts", "train", "tiny-nc", "--out", folder, "--workers", 1, "--quiet") == (0, "", "")
    code, out, err = call(capsys, "experts", "evaluate", folder)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.startswith("tiny-nc-")]
    found = evaluate_zoo(folder)
    assert rows[:2] == [
        [stream.folder, *(f"{100 * expert.accuracy:.1f}" for expert in stream.experts)] for stream in found.streams
    ]
    assert rows[2:] == [
        [stream.folder, *(f"{100 * row.stream_accuracy:.1f}" for row in stream.baselines)] for stream in found.streams
    ]
    code, out, err = call(capsys, "experts", "train", "nothing", "--out", folder)
    assert (code, out) == (2, "")
    assert "'nothing'" in err

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train_zoo", interrupt)
    monkeypatch.setattr(sys, "argv", ["exml", "experts", "train", "tiny-nc", "--out", "my zoo"])
    code, out, err = call(capsys, "experts", "train", "tiny-nc", "--out", folder)
    assert (code, err) == (130, "exml: interrupted; resume with: exml experts train tiny-nc --out 'my zoo'\n")


def test_a_card_that_names_no_scenario_is_a_fault(zoo):
    for number in (1, 2):
        change(training={"scenario": "\x1boak", "seed": -1})(zoo / "tiny-nc-1" / f"expert-{number}.json")
    fault = evaluate_zoo(zoo).faults["tiny-nc-1/expert-1"]
    assert r"got '\x1boak'" in fault
    assert fault.isprintable()
