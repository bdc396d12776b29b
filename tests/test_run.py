"""Runs over a scenario from Python: what they measure and write, and that a stopped run resumes to the same end."""

import fcntl
import json
import threading
import time
from pathlib import Path

import attrs
import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

import exml
from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage
from exml.core.errors import CheckpointError, ExmlError, SettingError, UnknownNameError
from exml.core.ranks import ALONE
from exml.engine import Execution
from exml.experts import ExpertStream, load_expert
from exml.learning import events
from exml.runs import Environment, Result, Seconds
from exml.runs.evaluation import evaluate_baseline
from exml.runs.record import Request, RunFolder
from exml.scenarios import registry
from tests import tiny

CHOSEN = {"inversion": tiny.inversion(), "replay": tiny.replay("tiny-nc")}


@pytest.fixture(autouse=True, scope="module")
def _scenarios():
    with pytest.MonkeyPatch.context() as patch:
        for name, factory in tiny.FACTORIES.items():
            patch.setitem(registry._FACTORIES, name, factory)
        yield


@pytest.fixture
def pictures():
    """Tests without this fixture draw no figures: drawing takes longer than the rest of a tiny run."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "pictures" not in request.fixturenames:
        tiny.no_figures(monkeypatch)


@attrs.frozen
class Finished:
    """A finished run of both strategies."""

    result: Result
    folder: Path
    seen: list
    seconds: float


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, seen, begun = tmp_path_factory.mktemp("finished"), [], time.perf_counter()
    with pytest.MonkeyPatch.context() as patch:
        tiny.no_figures(patch)
        result = tiny.run("tiny-nc", CHOSEN, folder, observers=[seen.append])
    return Finished(result, folder, seen, time.perf_counter() - begun)


def student(folder):
    return (folder / "student.safetensors").read_bytes()


def assert_same_end(folder, finished):
    for name in CHOSEN:
        assert student(folder / name) == student(finished.folder / name)
    assert tiny.measured(folder) == tiny.measured(finished.folder)


def right(expert, test, classes=None):
    """The accuracy by hand."""
    with torch.no_grad():
        logits = expert.module((test.images - expert.mean[0]) / expert.std[0])
    if classes is not None:
        others = [label for label in range(tiny.CLASSES) if label not in classes]
        logits[:, others] = -torch.inf
    return (logits.argmax(1) == test.labels).double().mean().item()


@pytest.mark.usefixtures("pictures")
def test_the_files_and_figures_of_a_run(tmp_path):
    settings, backend, figures = dict(mpl.rcParams), mpl.get_backend(), pyplot.get_fignums()
    result = tiny.run("tiny-nc", {"plain": tiny.strategy()}, tmp_path / "a")
    files = tiny.files_of(tmp_path / "a")
    assert files == {
        ".lock",
        "accuracy.png",
        "checkpoint/checkpoint.json",
        "checkpoint/history.jsonl",
        "checkpoint/memory-*.safetensors",
        "checkpoint/state-*.safetensors",
        "experts/.lock",
        "experts/expert-1.json",
        "experts/expert-1.safetensors",
        "experts/expert-2.json",
        "experts/expert-2.safetensors",
        "result.json",
        "run.json",
        "samples.png",
        "stream.jsonl",
        "student.json",
        "student.safetensors",
    }
    assert Result.load(tmp_path / "a" / "result.json") == result
    for name in ("accuracy.png", "samples.png"):
        pixels = mpl.image.imread(tmp_path / "a" / name)
        assert pixels.std() > 0.01
    # The settings of the caller's own figures stay as they are.
    assert (dict(mpl.rcParams), mpl.get_backend(), pyplot.get_fignums()) == (settings, backend, figures)
    assert Figure().get_facecolor() == mpl.colors.to_rgba(settings["figure.facecolor"])


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("tiny-nc", set()),
        ("tiny-mt", set()),
        ("tiny-ni", {"Oracle"}),
        ("tiny-joint", {"Param. Avg.", "Ensemble Avg. (logits)", "Ensemble Avg. (probs)", "Min. Entropy"}),
    ],
)
def test_the_numbers_are_those_of_the_saved_student_and_experts(tmp_path, name, left_out):
    """The baselines that apply are those of the paper's Tables 2 and 3."""
    result = tiny.run(name, {"plain": tiny.strategy()}, tmp_path, seed=3)
    scenario = exml.scenarios.load(name, 3)
    learned = load_expert(tmp_path / "student.json")
    tasks = scenario.tasks
    by_hand = [right(learned, part.test, None if tasks is None else tasks[part.task]) for part in scenario.experiences]
    (row,) = result.strategies
    assert row.accuracy[-1] == pytest.approx(by_hand)
    assert len(row.accuracy) == len(row.stream_accuracy) == len(scenario.experiences)
    sizes = [len(part.test) for part in scenario.experiences]
    for i, accuracies in enumerate(row.accuracy, 1):
        weighed = sum(a * n for a, n in zip(accuracies[:i], sizes[:i], strict=True)) / sum(sizes[:i])
        assert row.stream_accuracy[i - 1] == pytest.approx(weighed)
    if len(sizes) == 2:
        assert row.forgetting == pytest.approx(row.accuracy[0][0] - row.accuracy[1][0])
    else:
        assert row.forgetting is None
    assert [experience.images for experience in result.experiences] == sizes
    assert [experience.classes for experience in result.experiences] == [part.classes for part in scenario.experiences]
    assert [experience.task for experience in result.experiences] == [part.task for part in scenario.experiences]
    assert learned.classes == tuple(range(tiny.CLASSES))

    experts = ExpertStream.from_folder(tmp_path / "experts")
    known = dict(
        zip(
            [baseline.name for baseline in result.baselines],
            [ParameterAverage(), EnsembleAverage(), EnsembleAverage("probabilities"), MinEntropy(), Oracle()],
            strict=True,
        )
    )
    for baseline in result.baselines:
        if baseline.reason is None:
            found = evaluate_baseline(known[baseline.name], experts, scenario)
            assert (baseline.accuracy, baseline.stream_accuracy) == (found.accuracies, found.stream)
        else:
            assert (baseline.accuracy, baseline.stream_accuracy) == (None, None)
    assert {row.name for row in result.baselines if row.reason is not None} == left_out
    assert [row.name for row in result.baselines if row.ex_model] == ["Param. Avg."]


def test_several_strategies_have_the_same_experts_and_seed(tmp_path, finished):
    alone = tiny.run("tiny-nc", {"two": CHOSEN["replay"]}, tmp_path)
    folder, rows = finished.folder, finished.result.strategies
    assert student(folder / "inversion") != student(folder / "replay") == student(tmp_path)
    assert [(row.name, row.folder, row.ex_model) for row in rows] == [
        ("inversion", "inversion", True),
        ("replay", "replay", False),
    ]
    assert rows[1].accuracy == alone.strategies[0].accuracy
    assert finished.result.baselines == alone.baselines
    assert {row.name: exml.Strategy.from_dict(row.strategy) for row in rows} == CHOSEN
    for file in ("student.json", "samples.png", "checkpoint/checkpoint.json"):
        assert (folder / "replay" / file).exists()
    assert not (folder / "student.json").exists()


def test_another_seed_is_another_run_and_auto_is_a_device(tmp_path, finished):
    result = tiny.run("tiny-nc", {"replay": CHOSEN["replay"]}, tmp_path, seed=1, device="auto")
    assert student(tmp_path) != student(finished.folder / "replay")
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert result.environments[0].device == str(expected)


def test_the_execution_is_recorded_and_must_be_the_same_in_a_resumed_run(tmp_path, finished):
    """On a CPU there is nothing to capture: the same bits. A network in bfloat16 gives others."""
    chosen = {"inversion": CHOSEN["inversion"]}
    forms = {"capture": Execution("capture"), "bfloat16": Execution(precision="bfloat16")}
    for name, execution in forms.items():
        (where,) = tiny.run("tiny-nc", chosen, tmp_path / name, execution=execution).environments
        assert (where.compile, where.precision) == (execution.compile, execution.precision)
    whole = student(finished.folder / "inversion")
    assert student(tmp_path / "capture") == whole != student(tmp_path / "bfloat16")
    with pytest.raises(CheckpointError, match=r"the execution that the run in .* was started with"):
        tiny.run("tiny-nc", chosen, tmp_path / "bfloat16", resume=True)


def test_another_learner_takes_the_student_as_its_expert(finished):
    expert = load_expert(finished.folder / "replay" / "student.json")
    scenario = exml.scenarios.load("tiny-nc")
    assert (expert.mean, expert.std, expert.image_shape) == (scenario.mean, scenario.std, scenario.image_shape)
    learner = exml.Learner(tiny.strategy(), scenario.make_student(1))
    learner.learn(expert)
    assert learner.classes_seen == (0, 1, 2, 3)


def test_validation_looks_at_no_test_image(tmp_path, monkeypatch):
    def guarded(seed, split):
        assert split == "validation"
        return tiny.make("tiny-nc", seed, split)

    monkeypatch.setitem(registry._FACTORIES, "tiny-nc", guarded)
    result = tiny.run("tiny-nc", {"plain": tiny.strategy()}, tmp_path, split="validation")
    assert result.split == "validation"


def test_events_come_in_order(finished):
    seen, kinds = finished.seen, [type(event) for event in finished.seen]
    assert [event.done for event in seen if isinstance(event, events.ExpertsProgress)] == [0, 1, 2, 3, 4]
    assert kinds[: kinds.index(events.StrategyStarted)] == [events.ExpertsProgress] * 5
    assert [event.name for event in seen if isinstance(event, events.StrategyStarted)] == list(CHOSEN)
    evaluated = [event for event in seen if isinstance(event, events.StudentEvaluated)]
    assert [(event.name, event.experience) for event in evaluated] == [(name, i) for name in CHOSEN for i in (1, 2)]
    row = finished.result.strategies[0]
    assert [event.accuracy for event in evaluated[:2]] == list(row.accuracy)
    assert [event.stream_accuracy for event in evaluated[:2]] == list(row.stream_accuracy)
    assert kinds[-6:] == [events.BaselinesStarted, *[events.BaselineEvaluated] * 5]
    assert kinds.count(events.DistillationProgress) == 2 * 2 * 8


class Stop(BaseException):
    """Ends a run like the end of its process."""


def stop_at(kind, experience=None):
    """An observer that stops the run at the first event of a kind."""

    def stop(event):
        if isinstance(event, kind) and (experience is None or event.experience == experience):
            raise Stop

    return stop


def test_a_run_that_is_stopped_again_and_again_ends_as_if_it_never_was(tmp_path, finished):
    stops = patience = 0
    while True:
        left = patience = patience + 4  # further each time, since lost steps are repeated

        def count(_event):
            nonlocal left
            left -= 1
            if left == 0:
                raise Stop

        try:
            resume = (tmp_path / "run.json").exists()
            tiny.run("tiny-nc", CHOSEN, tmp_path, checkpoint_every=3, resume=resume, observers=[count])
            break
        except Stop:
            stops += 1
    assert stops > 6
    assert_same_end(tmp_path, finished)


@pytest.mark.parametrize("kind", [events.CheckpointWritten, events.ExperienceFinished, events.StudentEvaluated])
def test_a_stop_between_the_last_step_and_its_evaluation(tmp_path, finished, kind):
    # The checkpoint of a finished experience is written before its evaluation.
    with pytest.raises(Stop):
        tiny.run("tiny-nc", CHOSEN, tmp_path, observers=[stop_at(kind, experience=1)])
    result = tiny.run("tiny-nc", CHOSEN, tmp_path, resume=True)
    assert len(result.strategies[0].accuracy) == 2
    assert_same_end(tmp_path, finished)


@pytest.mark.parametrize("kind", [events.DistillationProgress, events.ExperienceFinished])
def test_a_run_that_is_asked_to_stop_resumes_to_the_same_end(tmp_path, finished, kind):
    stop = exml.learning.Stop()

    def ask(event):
        if isinstance(event, kind) and event.experience == 1:
            stop.ask()

    result = exml.runs.run(exml.runs.ScenarioExperts("tiny-nc"), CHOSEN, tmp_path, stop=stop, observers=[ask])
    assert (result.stopped, result.baselines) == (True, ())
    assert [row.experiences for row in result.strategies] == [1 if kind is events.ExperienceFinished else 0]
    assert Result.load(tmp_path / "result.json") == result
    assert not tiny.run("tiny-nc", CHOSEN, tmp_path, resume=True).stopped
    assert_same_end(tmp_path, finished)


def test_runs_share_their_experts_and_wait_for_the_process_that_trains_them(tmp_path, finished):
    shared, waits, seen = tmp_path / "experts", threading.Event(), []
    shared.mkdir()
    (shared / ".expert-1.json.123.part").write_text("{")

    def run():
        def watch(event):
            seen.append(event)
            if isinstance(event, events.WaitingForProcess):
                waits.set()

        chosen = {"replay": CHOSEN["replay"]}
        seen.append(tiny.run("tiny-nc", chosen, tmp_path / "a", experts=shared, observers=[watch]))

    other = threading.Thread(target=run, daemon=True)
    with (shared / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.start()
        assert waits.wait(60)
        exml.scenarios.load("tiny-nc").train_experts(0, shared)
    other.join(60)
    assert seen[1] == events.WaitingForProcess(shared)
    assert [event.done for event in seen if isinstance(event, events.ExpertsProgress)] == [
        0,
        2,
        4,
    ]  # no epoch of its own
    assert seen[-1].strategies[0].accuracy == finished.result.strategies[1].accuracy
    assert not (tmp_path / "a" / "experts").exists()
    assert not (shared / ".expert-1.json.123.part").exists()


def test_a_finished_run_is_read_and_not_repeated(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")}
    seen = []
    again = tiny.run("tiny-nc", CHOSEN, finished.folder, resume=True, observers=[seen.append])
    assert (again, seen) == (finished.result, [])
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")} == before


def test_checkpoint_every_may_change_and_the_order_of_strategies_may_not(tmp_path, finished):
    with pytest.raises(Stop):
        tiny.run("tiny-nc", CHOSEN, tmp_path, observers=[stop_at(events.StudentEvaluated)])
    turned = dict(reversed(CHOSEN.items()))
    result = tiny.run("tiny-nc", turned, tmp_path, resume=True, checkpoint_every=2)
    assert [row.name for row in result.strategies] == list(CHOSEN)
    assert tiny.forget_seconds(result.to_dict()) == tiny.forget_seconds(finished.result.to_dict())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 1}, "the seed that the run in .* was started with: 0, got 1"),
        ({"split": "validation"}, "the split .*: test, got validation"),
        ({"name": "tiny-ni"}, "the scenario .*: tiny-nc, got tiny-ni"),
        ({"strategies": {"b": tiny.strategy()}}, "the strategies .*: inversion, replay, got b"),
        (
            {"strategies": {**CHOSEN, "replay": tiny.strategy()}},
            "the strategy 'replay' .*: as it was then, got another",
        ),
        ({"resume": False}, "got a folder with a run; remedy: resume that run"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_is_resumed_with_its_own_arguments_only(finished, change, complaint):
    before = (finished.folder / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match=complaint):
        tiny.run(**{"name": "tiny-nc", "strategies": CHOSEN, "out": finished.folder, "resume": True, **change})
    assert (finished.folder / "run.json").read_bytes() == before


def test_nothing_to_resume(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"expected a run in .*, got none; remedy: check the path"):
            tiny.run("tiny-nc", {"a": tiny.strategy()}, folder, resume=True)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 2}', "\xff"])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"run\.json"):
        tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path, resume=True)


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CheckpointError, match="got a folder with other files; remedy: choose another folder"):
        tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"at .*thesis\.tex"):
        tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path / "thesis.tex")
    with pytest.raises(CheckpointError, match="a new or empty folder"):
        tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path / "thesis.tex" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_process_that_resumes_an_active_run_waits_for_it(tmp_path):
    chosen, waits, late = {"a": tiny.strategy()}, threading.Event(), []

    def resume():
        def wait(event):
            late.append(event)
            waits.set()

        late.append(tiny.run("tiny-nc", chosen, tmp_path, resume=True, observers=[wait]))

    other = threading.Thread(target=resume, daemon=True)

    def begin_the_other(event):
        if isinstance(event, events.StrategyStarted):
            other.start()
            assert waits.wait(60)

    result = tiny.run("tiny-nc", chosen, tmp_path, observers=[begin_the_other])
    other.join(60)
    assert late == [events.WaitingForProcess(tmp_path), result]


def test_two_processes_do_not_start_in_one_folder(tmp_path):
    """What a process leaves that was killed before it wrote the record is not a run."""
    (tmp_path / ".run.json.123.part").write_text("{")
    with (tmp_path / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process that is starting a run there"):
            tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path)
    tiny.run("tiny-nc", {"a": tiny.strategy()}, tmp_path)
    assert not (tmp_path / ".run.json.123.part").exists()


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"name": "mnist-xy"}, UnknownNameError, "one of .*tiny-nc.*, got 'mnist-xy'"),
        ({"strategies": {}, "baselines": False}, SettingError, "at least one strategy, or the baselines"),
        ({"strategies": {"../up": tiny.strategy()}}, SettingError, "'../up'"),
        ({"strategies": {"experts": tiny.strategy()}}, SettingError, "'experts'"),
        ({"strategies": {"config.json": tiny.strategy()}}, SettingError, "'config.json'"),
        ({"seed": -1}, SettingError, ">= 0 for RunSettings.seed, got -1"),
        ({"checkpoint_every": 0}, SettingError, ">= 1 .*for RunSettings.checkpoint_every"),
        ({"device": "gpu"}, SettingError, "a device that torch can use here, got 'gpu'"),
        ({"device": "meta"}, SettingError, "a device that torch can use here, got 'meta'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, change, error, complaint):
    arguments = {"name": "tiny-nc", "strategies": {"a": tiny.strategy()}, **change}
    with pytest.raises(error, match=complaint):
        tiny.run(**arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_environment_is_recorded(finished):
    (environment,) = finished.result.environments
    assert environment.versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "exml", "kornia", "numpy"} <= environment.versions.keys()
    assert environment.threads == torch.get_num_threads()
    assert f"cores, {torch.backends.cpu.get_cpu_capability()})" in environment.hardware


@pytest.fixture
def opened(tmp_path):
    request = Request({"a": {}}, 0, "cpu", scenario="tiny-nc", split="test")
    here = Environment(versions={}, device="cpu", hardware="here", threads=1)

    def reopen(resume=True, environment=here):
        return RunFolder(tmp_path, request, environment, (lambda: None) if resume else None, ALONE)

    return reopen


def test_the_clock_gives_each_phase_its_time_over_all_processes(opened, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def passes(seconds):
        nonlocal now
        now += seconds

    with opened(resume=False) as folder:
        passes(3)
        folder.enter("generation", "a")
        passes(5)
        folder.enter("distillation", "a")
        passes(1)
        folder.tick()  # writes everything so far
        passes(1)
        folder.tick()  # too early to write again: this second is lost with the process
    now = 7.0  # another process, another origin of time
    with opened() as folder:
        passes(2)
        folder.enter("distillation", "a")
        passes(10)
        folder.save()
    with opened() as folder:
        assert folder.record.shared == Seconds(experts=5)
        assert folder.record.strategies["a"].seconds == Seconds(generation=5, distillation=11)
        assert folder.record.strategies["a"].seconds.total == 16


def test_no_time_is_counted_while_nothing_runs(opened, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with opened(resume=False) as folder:
        folder.enter(None, "a")
        now = 5.0
        folder.enter("generation", "a")
        now = 7.0
        folder.save()
        assert folder.record.strategies["a"].seconds == Seconds(generation=2)


def test_every_environment_of_a_resumed_run_is_recorded_once(opened):
    there = Environment(versions={"torch": "9"}, device="cpu", hardware="there", threads=4)
    opened(resume=False).__exit__(None, None, None)
    for environment in (there, there):
        with opened(environment=environment) as folder:
            found = [environment.hardware for environment in folder.record.environments]
    assert found == ["here", "there"]


def test_the_seconds_add_up(finished):
    result = finished.result
    record = json.loads((finished.folder / "run.json").read_text())
    shared = Seconds(**record["shared"])
    assert sum((row.seconds for row in result.strategies), shared) == result.seconds
    assert 0 < result.seconds.total <= finished.seconds
    assert all(value > 0 for row in result.strategies for value in (row.seconds.generation, row.seconds.distillation))
    assert all(row.seconds.experts == 0 for row in result.strategies)


def test_a_strategy_that_fails_leaves_what_can_be_resumed(tmp_path, finished):
    """After a typed error, such as that of a full disk, a resumed run ends as if there was no error."""

    def full(event):
        if isinstance(event, events.BufferUpdated) and event.experience == 2:
            raise CheckpointError(expected="to write", got="no space left", remedy="free some")

    with pytest.raises(ExmlError, match="no space left"):
        tiny.run("tiny-nc", CHOSEN, tmp_path, observers=[full])
    tiny.run("tiny-nc", CHOSEN, tmp_path, resume=True)
    assert_same_end(tmp_path, finished)
