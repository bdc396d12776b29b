"""Executors: jobs in processes that crash and are killed, on this machine and on a real Ray."""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from exml.core.errors import NonFiniteError, SettingError
from exml.core.imports import import_all
from exml.core.registry import class_of
from exml.learning.events import JobProgress
from exml.runs import (
    Ended,
    Job,
    LocalProcesses,
    RayCluster,
    Resources,
    ThisProcess,
    executors,
    sweep,
)
from exml.runs.sweep import Choice, Sweep
from tests import tiny
from tests.sweep.test_sweep_run import table


def alive(pid):
    """Whether a process is there and not only waiting to be buried."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def patient(condition):
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until, "this takes too long"
        time.sleep(0.02)


def do_nothing(parent):
    """Stands for the initializer of a worker."""


class LightJob(Job):
    """Arrives in a worker as something that needs no module of exml."""

    def __reduce__(self):
        return partial(SimpleNamespace, name=self.name, log=self.log), ()


def act(job, threads):
    """Stands for a job in a worker that need not import torch."""
    name, folder = job.name.partition("-")[2], job.log.parent
    job.log.write_text(
        f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {threads} [{os.environ['CUDA_VISIBLE_DEVICES']}]"
    )
    if name == "sleep":
        time.sleep(600)
    if name == "exit":
        os._exit(3)
    if name == "kill":
        os.kill(os.getpid(), 9)
    if name == "quit":
        sys.exit("enough")
    (folder / f"{job.name}.done").touch()


@pytest.fixture
def light_jobs(tmp_path, monkeypatch):
    """Makes jobs whose workers start in a moment, for what does not depend on the work."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    monkeypatch.setattr(executors, "perform_in_worker", act)
    monkeypatch.setattr(executors, "_follow_parent", do_nothing)

    def make(acts):
        names = [f"{number}-{name}" for number, name in enumerate(acts)]
        return [LightJob(name, print, tmp_path / f"{name}.txt") for name in names]

    yield make
    cloudpickle.unregister_pickle_by_value(here)


def test_a_worker_that_dies_is_replaced_and_one_that_lives_continues(light_jobs):
    jobs, ended = light_jobs(["fine", "fine", "exit", "fine", "kill", "quit"]), []
    LocalProcesses(1)(jobs, Resources(cpus=3), ended.append)
    assert [told.name for told in ended] == [job.name for job in jobs]
    assert [told.failure and told.failure.message for told in ended] == [
        None,
        None,
        "the process of the job ended with exit code 3",
        None,
        "the process of the job was killed by SIGKILL (out of memory?)",
        "SystemExit: enough",
    ]
    logs = [job.log.read_text() for job in jobs]
    pids = [log.split()[0] for log in logs]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] != pids[5]
    assert {log.partition(" ")[2] for log in logs} == {"3 3 []"}
    assert ended[2].failure.details.endswith(logs[2])
    assert not any(alive(pid) for pid in pids)


def test_several_at_a_time_and_none_is_left_when_the_caller_stops(light_jobs):
    jobs, ended = light_jobs(["sleep", "fine", "sleep", "fine", "sleep", "fine"]), []

    def stop(told):
        ended.append(told.name)
        if len(ended) == 2:
            patient(lambda: all(job.log.exists() and job.log.read_text() for job in jobs[:3]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalProcesses(3)(jobs, Resources(), stop)
    assert ended == ["1-fine", "3-fine"]
    pids = {job.log.read_text().split()[0] for job in jobs[:4]}
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)
    assert not jobs[5].log.exists()


def work(what, report):
    report(1, 2)
    if what == "diverge":
        raise NonFiniteError(expected="a finite loss", got="nan", remedy="lower the learning rate")
    if what == "raise":
        raise RuntimeError("over two\nlines")
    report(2, 2)


def test_a_job_reports_progress_and_may_fail(tmp_path):
    jobs, told = [Job(name, partial(work, name), tmp_path / name) for name in ("fine", "diverge", "raise")], []
    ThisProcess()(jobs, Resources(), told.append)
    fine, diverged, raised = (event for event in told if isinstance(event, Ended))
    assert told[:3] == [JobProgress("fine", 1, 2), JobProgress("fine", 2, 2), fine]
    assert fine == Ended("fine", None)
    error = diverged.failure.error
    assert (type(error), error.got, error.remedy) == (NonFiniteError, "nan", "lower the learning rate")
    assert diverged.failure.message == str(error)
    assert (raised.failure.message, raised.failure.error) == ("RuntimeError: over two lines", None)
    assert 'raise RuntimeError("over two\\nlines")' in raised.failure.details


@pytest.mark.parametrize(
    ("workers", "resources", "visible", "expected"),
    [
        (None, Resources(), "", ["", ""]),
        (None, Resources(cpus=2), "", [""]),
        (None, Resources(cpus=64), "", [""]),
        (3, Resources(cpus=2), "", [""] * 3),
        (None, Resources(gpus=1), "0,1,2", ["0", "1"]),
        (3, Resources(gpus=1), "4,7,GPU-x", ["4", "7", "GPU-x"]),
        (2, Resources(gpus=2), "0,1,2,3,4", ["0,1", "2,3"]),
        (4, Resources(gpus=0.5), "0,1", ["0", "1", "0", "1"]),
    ],
)
def test_each_worker_has_cores_and_gpus_of_its_own(monkeypatch, workers, resources, visible, expected):
    monkeypatch.setattr(executors, "cores", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert LocalProcesses(workers).slots(resources) == expected
    assert LocalProcesses(3, isolate_gpus=False).slots(resources) == [visible] * 3


@pytest.mark.parametrize(("workers", "gpus"), [(None, 3), (2, 2), (3, 1), (5, 0.5)])
def test_more_gpus_than_there_are(monkeypatch, workers, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SettingError, match=r"GPUs for .* run\(s\) at a time .*, got 2 GPU\(s\)"):
        LocalProcesses(workers).slots(Resources(gpus=gpus))


def test_without_ray_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"remedy: pip install exml\[ray\], or use local processes"):
        RayCluster()([Job("a", print, tmp_path / "a.txt")], Resources(), print)


def in_moods(folder, *moods):
    """A run that works, then one run per mood, which lasts until there is a cure."""
    module = str(folder / "tiny_module.py")
    import_all([module])
    tiny.strategy(generator=class_of("moody")("", str(folder / "cure"))).save(folder / "moody.yaml")
    moody = Choice(str(folder / "moody.yaml"), {"generator.mood": moods})
    return Sweep(scenarios=("tiny-nc",), strategies=(str(folder / "noise.yaml"), moody), imports=(module,))


@pytest.fixture
def ray():
    """A real one on this machine; it leaves sockets and files to the garbage collector, and warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", module="ray")
        warnings.filterwarnings("ignore", message=".*RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", category=FutureWarning)
        yield executors._import_ray()


@pytest.mark.slow
def test_local_processes_and_ray_give_the_same_table(folder, ray):
    local, out, told = folder / "local", folder / "ray", ([], [])
    asked = in_moods(folder, "raise", "exit")
    here = sweep.run(asked, local, executor=LocalProcesses(2), observers=[told[0].append])
    there = sweep.run(asked, out, executor=RayCluster(), observers=[told[1].append])
    assert not ray.is_initialized()
    for events in told:
        assert {(event.done, event.total) for event in events if isinstance(event, JobProgress)} >= {(2, 2)}
    assert [row for row in table(out) if not row["error"]] == [row for row in table(local) if not row["error"]]
    (student,) = local.glob("runs/*/student.safetensors")
    assert (out / student.relative_to(local)).read_bytes() == student.read_bytes()
    assert [path.name for path in (local / "experts").iterdir()] == ["tiny-nc-0"]
    assert not list(local.glob("runs/*/experts"))

    # What crashed is kept with its own error, and repeated on request.
    raised, ended = "RuntimeError: over two lines", "the process of the job ended with exit code 3"
    assert [row.error for row in here.failed] == [raised, ended]
    assert there.failed[0].error == raised
    assert there.failed[1].error.startswith("WorkerCrashedError: ")
    for kept in (local, out):
        name = "tiny-nc--moody--generator.mood={}--seed=0.txt"
        texts = [(kept / "failures" / name.format(mood)).read_text() for mood in ("raise", "exit")]
        assert 'raise RuntimeError("over two\\nlines")' in texts[0]
        assert "in the mood to exit" in texts[1]
        assert "in the mood to raise" in (kept / "logs" / name.format("raise")).read_text()
    (folder / "cure").touch()
    cured = sweep.run(asked, out, resume=True, retry_failed=True, executor=ThisProcess())
    assert cured.failed == ()
    assert len({row.stream_accuracy for row in cured.rows if row.kind == "strategy"}) == 1


@pytest.mark.slow
def test_kill_9_of_a_sweep_leaves_no_worker_and_it_resumes(folder):
    asked, out = in_moods(folder, "wait"), folder / "out"
    asked.save(folder / "sweep.yaml")
    command = [sys.executable, "-m", "exml", "sweep", str(folder / "sweep.yaml"), "--out", str(out), "--workers", "1"]
    killed = subprocess.Popen([*command, "--quiet"], start_new_session=True)
    patient(lambda: killed.poll() is not None or list(out.glob("runs/*moody*/run.json")))
    children = Path(f"/proc/{killed.pid}/task").glob("*/children")
    workers = [pid for file in children for pid in file.read_text().split()]
    assert workers
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    patient(lambda: not any(alive(pid) for pid in workers))
    assert len(list(out.glob("runs/*/result.json"))) == 1

    (folder / "cure").touch()
    resumed = sweep.run(asked, out, resume=True, executor=ThisProcess())
    assert resumed.failed == ()
    noise, moody = (row for row in resumed.rows if row.kind == "strategy")
    assert (noise.stream_accuracy, noise.forgetting) == (moody.stream_accuracy, moody.forgetting)
