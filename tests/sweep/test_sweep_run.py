"""What a sweep leaves behind, with a backend that works in this process."""

import csv
import fcntl
import io
import json
import re
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

import attrs
import matplotlib as mpl
import pytest
from rich.console import Console

from exml import runs
from exml.core.errors import CheckpointError
from exml.learning.events import WaitingForProcess
from exml.learning.strategy import Strategy
from exml.runs import Result, sweep
from exml.runs.sweep import Ended, Failure, RunEnded, Sweep, SweepDisplay, SweepStarted, groups_of
from tests import tiny


class Here:
    """A backend that carries out runs in this process, each once and then from memory, but for those it shall fail."""

    memory = tempfile.TemporaryDirectory()

    def __init__(self, fails=(), stop_after=None):
        self.fails, self.stop_after, self.asked = fails, stop_after, []

    def __call__(self, tasks, resources, /):
        for number, task in enumerate(tasks):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(task)
            if any(part in task.name for part in self.fails):
                yield Ended(task.name, Failure("it, broke", "Traceback: it broke"))
                continue
            known = Path(self.memory.name) / task.name
            if not known.exists():
                parts = Strategy.from_dict(task.parts)
                runs.run(task.scenario, {task.strategy: parts}, known, seed=task.seed)
            shutil.copytree(known, task.folder)
            yield Ended(task.name, None)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    tiny.no_figures(monkeypatch)


@pytest.fixture
def asked(folder):
    return Sweep(
        scenarios=("tiny-nc", "tiny-ni"),
        strategies=(
            str(folder / "noise.yaml"),
            sweep.Choice(str(folder / "inversion.yaml"), {"training.iterations": (4,), "student": ("reset",)}),
        ),
        seeds=(0, 1),
        fields={"training.iterations": (4, 6)},
    )


def table(out):
    """What must be the same whoever carried out the runs."""
    records = json.loads((out / "results.json").read_text())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_the_table_is_what_the_runs_say(folder, asked):
    out, seen = folder / "out", []
    result = sweep.run(asked, out, backend=Here(), observers=[seen.append])
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "comparison.png",
        "results.csv",
        "results.json",
        "runs",
        "sweep.yaml",
    }
    records = json.loads((out / "results.json").read_text())
    assert records == result.records()
    runs = [record for record in records if record["kind"] == "strategy"]
    assert len(runs) == 12
    for record in runs:
        found = Result.load(out / record["folder"] / "result.json")
        (learned,) = found.strategies
        assert (record["scenario"], record["seed"]) == (found.scenario, found.seed)
        assert record["strategy"] == learned.name
        assert record["training.iterations"] == learned.strategy["training"]["iterations"]
        assert record["student"] == ("reset" if learned.name == "inversion" else None)
        assert record["stream_accuracy"] == learned.stream_accuracy[-1]
        assert record["forgetting"] == learned.forgetting
        assert record["seconds"] == pytest.approx(learned.seconds.total, abs=1e-3)
        assert record["error"] is None
    baselines = [(record["scenario"], record["seed"], record["strategy"]) for record in records[12:]]
    names = ["Param. Avg.", "Ensemble Avg. (logits)", "Ensemble Avg. (probs)", "Min. Entropy"]
    expected = [
        (scenario, seed, name) for scenario in ("tiny-nc", "tiny-ni") for seed in (0, 1) for name in [*names, "Oracle"]
    ]
    assert baselines == [row for row in expected if row[0] == "tiny-nc" or row[2] != "Oracle"]

    rows = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert list(rows[0]) == list(records[0])
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            assert row[name] == ("" if value is None else json.dumps(value) if isinstance(value, bool) else str(value))
    assert isinstance(seen[0], SweepStarted)
    assert [event.name for event in seen[1:]] == [run.name for run in sweep.plan(asked).runs]
    assert mpl.image.imread(out / "comparison.png").std() > 0.01


def test_groups_are_over_seeds(folder, asked):
    result = sweep.run(asked, folder / "out", backend=Here(fails=["nc--noise--training.iterations=4--seed=1"]))
    groups = {(group.scenario, group.label): group for group in groups_of(result)}
    group = groups["tiny-nc", "noise iterations=6"]
    values = [
        100 * row.stream_accuracy
        for row in result.rows
        if (row.scenario, row.strategy) == ("tiny-nc", "noise") and row.fields["training.iterations"] == 6
    ]
    assert len(values) == 2
    assert group.text == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    assert groups["tiny-nc", "noise iterations=4"].text.endswith(", 1 failed")
    assert [row.error for row in result.failed] == ["it, broke"]
    assert len([name for name in groups if name[0] == "tiny-nc"]) == 3 + 5


def test_failures_are_kept_and_begun_again_on_request_only(folder, asked):
    asked = attrs.evolve(asked, scenarios=("tiny-nc",))
    out = folder / "out"
    first = sweep.run(asked, out, backend=Here(fails=["noise"]))
    assert len(first.failed) == 4
    failure = out / "failures" / f"{first.failed[0].folder.removeprefix('runs/')}.txt"
    assert failure.read_text() == "it, broke\n\nTraceback: it broke"
    again = Here()
    assert sweep.run(asked, out, resume=True, backend=again) == first
    assert again.asked == []
    assert len(sweep.run(asked, out, resume=True, retry_failed=True, backend=again).failed) == 0
    assert [task.strategy for task in again.asked] == ["noise"] * 4
    assert not list((out / "failures").iterdir())
    sweep.run(asked, folder / "whole", backend=Here())
    assert table(out) == table(folder / "whole")


def test_a_sweep_that_was_stopped_goes_on_and_may_have_grown(folder, asked):
    asked = attrs.evolve(asked, scenarios=("tiny-nc",))
    out = folder / "out"
    with pytest.raises(KeyboardInterrupt):
        sweep.run(asked, out, backend=Here(stop_after=3))
    assert len([row for row in table(out) if row["kind"] == "strategy"]) == 3
    grown = attrs.evolve(asked, seeds=(0, 1, 2))
    rest = Here()
    sweep.run(grown, out, resume=True, backend=rest)
    assert len(rest.asked) == 9 - 3
    sweep.run(grown, folder / "whole", backend=Here())
    assert table(out) == table(folder / "whole")


def test_a_run_without_a_result_is_a_failure(folder, asked):
    def absent(tasks, resources, /):
        yield from (Ended(task.name, None) for task in tasks)

    result = sweep.run(asked, folder / "out", backend=absent)
    assert {row.error for row in result.failed} == {"no result.json came of it; do all machines see the same folder?"}
    assert mpl.image.imread(folder / "out" / "comparison.png").std() > 0


def test_what_is_in_a_folder_is_not_overwritten(folder, asked):
    with pytest.raises(CheckpointError, match=r"a new or empty folder, not .*, got something else"):
        sweep.run(asked, folder, backend=Here())
    with pytest.raises(CheckpointError, match=r"a sweep in .*, got none"):
        sweep.run(asked, folder / "out", resume=True, backend=Here())
    assert not (folder / "out").exists()
    sweep.run(attrs.evolve(asked, seeds=(0,)), folder / "out", backend=Here(fails=["seed"]))
    with pytest.raises(CheckpointError, match="got a sweep; remedy: go on with that sweep by resuming it"):
        sweep.run(asked, folder / "out", backend=Here())


def test_what_a_process_left_that_was_killed_before_the_record_is_no_sweep(folder, asked):
    out = folder / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".sweep.yaml.123.part").write_text("scen")
    sweep.run(asked, out, backend=Here(fails=["seed"]))
    assert not (out / ".sweep.yaml.123.part").exists()


def test_who_resumes_a_sweep_that_is_under_way_waits_for_it(folder, asked):
    out, waits, seen = folder / "out", threading.Event(), []
    sweep.run(asked, out, backend=Here(fails=["seed"]))

    def watch(event):
        seen.append(event)
        waits.set()

    other = threading.Thread(
        target=lambda: sweep.run(asked, out, resume=True, backend=Here(), observers=[watch]), daemon=True
    )
    with (out / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.start()
        assert waits.wait(60)
    other.join(60)
    assert seen[0] == WaitingForProcess(out)
    assert isinstance(seen[1], SweepStarted)


def test_every_setting_of_the_file_arrives(folder):
    asked = Sweep(
        scenarios=("tiny-nc",),
        strategies=(str(folder / "noise.yaml"),),
        seeds=(3,),
        split="validation",
        device="cuda",
        compile="capture",
        precision="bfloat16",
        resources=sweep.Resources(cpus=2, gpus=0.5),
        imports=(str(folder / "tiny_module.py"),),
    )
    backend = Here(fails=["seed"])
    sweep.run(asked, folder / "out", backend=backend)
    (task,) = backend.asked
    out = folder.resolve() / "out"
    assert attrs.asdict(task) == {
        "name": "tiny-nc--noise--seed=3",
        "scenario": "tiny-nc",
        "strategy": "noise",
        "parts": tiny.strategy().to_dict(),
        "seed": 3,
        "split": "validation",
        "device": "cuda",
        "compile": "capture",
        "precision": "bfloat16",
        "threads": 2,
        "imports": (str(folder / "tiny_module.py"),),
        "folder": str(out / "runs" / "tiny-nc--noise--seed=3"),
        "experts": str(out / "experts" / "tiny-nc-3"),
        "log": str(out / "logs" / "tiny-nc--noise--seed=3.txt"),
        "baselines": True,
    }


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_how_far_each_run_is(folder, asked, terminal):
    asked = attrs.evolve(asked, scenarios=("tiny-nc",), seeds=(0,))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=30)
    frames = []

    with SweepDisplay(console) as display:

        def watch(event):
            if isinstance(event, RunEnded):
                (folder / "out" / "logs").mkdir(exist_ok=True)
                with console.capture() as capture:
                    console.print(display._draw())
                frames.append(capture.get())

        sweep.run(asked, folder / "out", backend=Here(fails=["noise"]), observers=[display, watch])
    if not terminal:
        lines = console.file.getvalue().splitlines()
        assert lines[0] == "[1/3] tiny-nc noise training.iterations=4 seed 0: failed: it, broke"
        title = "[3/3] tiny-nc inversion training.iterations=4 student=reset seed 0"
        assert re.fullmatch(re.escape(title) + r": stream accuracy \d+\.\d%, \d+\.\d s", lines[2])
        return
    assert "3 runs: 2 waiting, 1 failed; about" in frames[0]
    assert "failed: it, broke" in frames[0]
    assert "noise iterations=6" in frames[0]
    assert "1 waiting, 2 failed" in frames[1]
    assert "1 done, 2 failed" in frames[2]


def test_the_display_reads_how_far_a_run_is_and_keeps_to_the_height(folder, asked):
    out = folder / "out"
    backend = Here(fails=["noise--training.iterations=4"], stop_after=5)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        sweep.run(asked, out, backend=backend, observers=[seen.append])
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=9)
    display = SweepDisplay(console)
    for event in seen:
        display(event)
    done, under_way = sweep.plan(asked).runs[4:6]
    (out / "logs").mkdir()
    (out / "logs" / f"{under_way.name}.txt").touch()

    def frame():
        with console.capture() as capture:
            console.print(display._draw())
        return re.sub(r"\x1b\[[0-9;]*m", "", capture.get())

    assert "starting" in frame()
    (out / "runs" / under_way.name).mkdir()
    record = json.loads((out / "runs" / done.name / "run.json").read_text())
    spent = sum(record["shared"].values()) + sum(record["strategies"]["inversion"]["seconds"].values())
    record["strategies"]["inversion"]["accuracy"].pop()
    (out / "runs" / under_way.name / "run.json").write_text(json.dumps(record))
    assert re.search(rf"inversion iterations=4 +1 +{spent:.0f} +expert 2/2", frame())
    assert len(frame().splitlines()) <= 9
    assert "and 6 waiting, 2 failed" in frame()
