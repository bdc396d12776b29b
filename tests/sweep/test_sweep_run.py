"""The results of a sweep, with an executor that works in this process."""

import csv
import fcntl
import io
import json
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

import attrs
import matplotlib as mpl
import pytest

from exml import runs
from exml.core.errors import CheckpointError
from exml.core.execution import Execution
from exml.learning.events import JobEnded, JobsStarted, WaitingForProcess
from exml.learning.strategy import Strategy
from exml.runs import Ended, Failure, Result, sweep
from exml.runs.sweep import Sweep
from tests import tiny


class Here:
    """An executor in this process that remembers the results of runs, fails some of them, and stops after a number."""

    memory = tempfile.TemporaryDirectory()

    def __init__(self, fails=(), stop_after=None):
        self.fails, self.stop_after, self.asked = fails, stop_after, []

    def __call__(self, jobs, resources, tell, /):
        self.resources = resources
        for number, job in enumerate(jobs):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(job)
            if any(part in job.name for part in self.fails):
                tell(Ended(job.name, Failure("it, broke", "Traceback: it broke")))
                continue
            known, given = Path(self.memory.name) / job.name, job.call.keywords
            if not known.exists():
                source = attrs.evolve(given["source"], folder=None)
                strategies = {name: Strategy.from_dict(plain) for name, plain in given["strategies"].items()}
                runs.run(source, strategies, known, settings=given["settings"])
            shutil.copytree(known, given["folder"])
            tell(Ended(job.name, None))


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
    """The part of a table that does not depend on the executor."""
    records = json.loads((out / "results.json").read_text())
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_the_table_is_what_the_runs_say(folder, asked):
    out, seen = folder / "out", []
    result = sweep.run(asked, out, executor=Here(), observers=[seen.append])
    written = {"comparison.png", "results.csv", "results.json", "runs", "sweep.yaml"}
    assert {path.name for path in out.iterdir()} == {".lock", *written}
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
    names = tuple(run.name for run in sweep.plan(asked).runs)
    assert seen[0] == JobsStarted(names, total=12)
    summaries = [f"stream accuracy {row['stream_accuracy']:.1%}, {row['seconds']:.1f} s" for row in runs]
    assert seen[1:] == [JobEnded(name, summary) for name, summary in zip(names, summaries, strict=True)]
    assert mpl.image.imread(out / "comparison.png").std() > 0.01


def test_groups_are_over_seeds(folder, asked):
    result = sweep.run(asked, folder / "out", executor=Here(fails=["nc--noise--training.iterations=4--seed=1"]))
    groups = {(group.scenario, group.label): group for group in result.groups}
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
    told = []
    first = sweep.run(asked, out, executor=Here(fails=["noise"]), observers=[told.append])
    assert len(first.failed) == 4
    assert {event.error for event in told[1:]} == {"it, broke", None}
    failure = out / "failures" / f"{first.failed[0].folder.removeprefix('runs/')}.txt"
    assert failure.read_text() == "it, broke\n\nTraceback: it broke"
    again = Here()
    assert sweep.run(asked, out, resume=True, executor=again) == first
    assert again.asked == []
    assert len(sweep.run(asked, out, resume=True, retry_failed=True, executor=again).failed) == 0
    assert [list(job.call.keywords["strategies"]) for job in again.asked] == [["noise"]] * 4
    assert not list((out / "failures").iterdir())
    sweep.run(asked, folder / "whole", executor=Here())
    assert table(out) == table(folder / "whole")


def test_a_sweep_that_was_stopped_goes_on_and_may_have_grown(folder, asked):
    asked = attrs.evolve(asked, scenarios=("tiny-nc",))
    out = folder / "out"
    with pytest.raises(KeyboardInterrupt):
        sweep.run(asked, out, executor=Here(stop_after=3))
    assert len([row for row in table(out) if row["kind"] == "strategy"]) == 3
    grown = attrs.evolve(asked, seeds=(0, 1, 2))
    rest = Here()
    sweep.run(grown, out, resume=True, executor=rest)
    assert len(rest.asked) == 9 - 3
    sweep.run(grown, folder / "whole", executor=Here())
    assert table(out) == table(folder / "whole")


def test_a_run_without_a_result_is_a_failure(folder, asked):
    def absent(jobs, resources, tell, /):
        for job in jobs:
            tell(Ended(job.name, None))

    result = sweep.run(asked, folder / "out", executor=absent)
    assert {row.error for row in result.failed} == {"the run left no result.json; do all machines see the same folder?"}
    assert mpl.image.imread(folder / "out" / "comparison.png").std() > 0


def test_what_is_in_a_folder_is_not_overwritten(folder, asked):
    with pytest.raises(CheckpointError, match=r"a new or empty folder at .*, got a folder with other files"):
        sweep.run(asked, folder, executor=Here())
    with pytest.raises(CheckpointError, match=r"a sweep in .*, got none"):
        sweep.run(asked, folder / "out", resume=True, executor=Here())
    assert not (folder / "out").exists()
    sweep.run(attrs.evolve(asked, seeds=(0,)), folder / "out", executor=Here(fails=["seed"]))
    with pytest.raises(CheckpointError, match="got a folder with a sweep; remedy: resume that sweep, or"):
        sweep.run(asked, folder / "out", executor=Here())


def test_what_a_process_left_that_was_killed_before_the_record_is_no_sweep(folder, asked):
    out = folder / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".sweep.yaml.123.part").write_text("scen")
    sweep.run(asked, out, executor=Here(fails=["seed"]))
    assert not (out / ".sweep.yaml.123.part").exists()


def test_who_resumes_a_sweep_that_is_under_way_waits_for_it(folder, asked):
    out, waits, seen = folder / "out", threading.Event(), []
    sweep.run(asked, out, executor=Here(fails=["seed"]))

    def watch(event):
        seen.append(event)
        waits.set()

    other = threading.Thread(
        target=lambda: sweep.run(asked, out, resume=True, executor=Here(), observers=[watch]), daemon=True
    )
    with (out / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.start()
        assert waits.wait(60)
    other.join(60)
    assert seen[0] == WaitingForProcess(out)
    assert isinstance(seen[1], JobsStarted)


def test_every_setting_of_the_file_arrives(folder):
    asked = Sweep(
        scenarios=("tiny-nc",),
        strategies=(str(folder / "noise.yaml"),),
        seeds=(3,),
        split="validation",
        device="cuda",
        compile="capture",
        precision="bfloat16",
        resources=runs.Resources(cpus=2, gpus=0.5),
        imports=(str(folder / "tiny_module.py"),),
    )
    executor = Here(fails=["seed"])
    sweep.run(asked, folder / "out", executor=executor)
    (job,) = executor.asked
    assert executor.resources == asked.resources
    out = folder.resolve() / "out"
    assert (job.name, job.log) == ("tiny-nc--noise--seed=3", out / "logs" / "tiny-nc--noise--seed=3.txt")
    assert job.call.keywords == {
        "source": runs.ScenarioExperts("tiny-nc", "validation", out / "experts" / "tiny-nc-3"),
        "strategies": {"noise": tiny.strategy().to_dict()},
        "settings": runs.RunSettings(3, "cuda", Execution("capture", "bfloat16")),
        "imports": (str(folder / "tiny_module.py"),),
        "folder": out / "runs" / "tiny-nc--noise--seed=3",
    }
