"""Runs in processes that crash and are killed: on this machine, and on a real Ray."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import attrs
import pytest

from exml.core.errors import SettingError
from exml.core.registry import class_of
from exml.runs import sweep
from exml.runs.sweep import Choice, LocalProcesses, RayCluster, Resources, Sweep, Task, ray_cluster
from exml.runs.sweep import local as local_module
from exml.runs.sweep._imports import import_all
from tests import tiny
from tests.sweep.test_sweep_run import table


def alive(pid):
    """Whether a process is there and not only waiting to be buried."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def patient(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "this takes too long"
        time.sleep(0.02)


def task(folder, name, **parts):
    return Task(
        name=name,
        scenario="tiny-nc",
        strategy="a",
        parts=parts,
        seed=0,
        split="test",
        device="cpu",
        compile="never",
        precision="float32",
        threads=1,
        imports=(),
        folder=str(folder / "runs" / name),
        experts=str(folder / "experts"),
        log=str(folder / f"{name}.txt"),
    )


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    act = task["parts"].get("act")
    with open(task["log"], "w") as log:
        log.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} [{os.environ['CUDA_VISIBLE_DEVICES']}]")
    if act == "exit":
        os._exit(3)
    if act == "kill":
        os.kill(os.getpid(), 9)
    if act == "sleep":
        time.sleep(600)
    print(json.dumps({"message": "broke", "details": "why"} if act == "raise" else None), flush=True)
"""


@pytest.fixture
def _light_workers(monkeypatch):
    """Workers that need not import torch, for all that does not depend on what a run is."""
    monkeypatch.setattr(local_module, "COMMAND", (sys.executable, "-S", "-c", WORKER))


@pytest.mark.usefixtures("_light_workers")
def test_a_worker_that_dies_is_replaced_and_one_that_lives_goes_on(tmp_path):
    acts = ["fine", "raise", "exit", "fine", "kill", "fine"]
    tasks = [task(tmp_path, f"{number}-{act}", act=act) for number, act in enumerate(acts)]
    ended = list(LocalProcesses(1)(tasks, Resources(cpus=3)))
    assert [told.name for told in ended] == [one.name for one in tasks]
    messages = [told.failure and told.failure.message for told in ended]
    assert messages == [
        None,
        "broke",
        "the process of the run ended with exit code 3",
        None,
        "the process of the run was killed by SIGKILL (out of memory?)",
        None,
    ]
    logs = [Path(one.log).read_text() for one in tasks]
    pids = [log.split()[0] for log in logs]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] != pids[5]
    assert {log.partition(" ")[2] for log in logs} == {"3 []"}
    assert ended[2].failure.details.endswith(logs[2])
    patient(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.usefixtures("_light_workers")
def test_several_at_a_time_and_none_goes_on_when_the_sweep_ends(tmp_path):
    acts = ["sleep", "fine", "sleep", "fine", "sleep", "fine"]
    tasks = [task(tmp_path, f"{number}-{act}", act=act) for number, act in enumerate(acts)]
    running = LocalProcesses(3)(tasks, Resources())
    assert [next(running).name, next(running).name] == ["1-fine", "3-fine"]
    logs = [Path(one.log) for one in tasks]
    patient(lambda: all(log.exists() and log.read_text() for log in logs[:5]))
    pids = {log.read_text().split()[0] for log in logs[:5]}
    assert len(pids) == 3
    running.close()
    assert not any(alive(pid) for pid in pids)
    assert not logs[5].exists()


@pytest.mark.parametrize(
    ("workers", "resources", "visible", "expected"),
    [
        (None, Resources(), "", [None, None]),
        (None, Resources(cpus=2), "", [None]),
        (None, Resources(cpus=64), "", [None]),
        (3, Resources(cpus=2), "", [None] * 3),
        (None, Resources(gpus=1), "0,1,2", ["0", "1"]),
        (3, Resources(gpus=1), "4,7,GPU-x", ["4", "7", "GPU-x"]),
        (2, Resources(gpus=2), "0,1,2,3,4", ["0,1", "2,3"]),
        (4, Resources(gpus=0.5), "0,1", ["0", "1", "0", "1"]),
    ],
)
def test_each_worker_has_cores_and_gpus_of_its_own(monkeypatch, workers, resources, visible, expected):
    monkeypatch.setattr(local_module, "cores", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert LocalProcesses(workers).slots(resources) == expected


@pytest.mark.parametrize(("workers", "gpus"), [(None, 3), (2, 2), (3, 1), (5, 0.5)])
def test_more_gpus_than_there_are(monkeypatch, workers, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SettingError, match=r"GPUs for .* run\(s\) at a time .*, got 2 GPU\(s\)"):
        LocalProcesses(workers).slots(Resources(gpus=gpus))


def test_without_ray_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"remedy: pip install exml\[ray\], or take local processes"):
        next(RayCluster()([task(tmp_path, "a")], Resources()))


SWEEP = """
scenarios: [tiny-nc]
strategies: [noise.yaml, {strategy: inversion.yaml, fields: {training.iterations: [4]}}]
seeds: [0, 1]
fields:
  training.iterations: [4, 6, 8, 10, 12]
imports: [tiny_module.py]
"""
MEMORY = tempfile.TemporaryDirectory()


@pytest.fixture
def asked(folder):
    """12 runs."""
    (folder / "sweep.yaml").write_text(SWEEP)
    return Sweep.load(folder / "sweep.yaml")


def with_crashes(asked, folder):
    """4 runs more, of which 2 raise and 2 end their process, until there is a cure."""
    import_all(asked.imports)
    moody = class_of("moody")("raise", str(Path(MEMORY.name) / "cure"))
    tiny.strategy(generator=moody).save(folder / "moody.yaml")
    moods = Choice(str(folder / "moody.yaml"), {"training.iterations": (4,), "generator.mood": ("raise", "exit")})
    return attrs.evolve(asked, strategies=(*asked.strategies, moods))


def on_local_processes(asked, folder):
    """What local processes make of it, once for all tests."""
    out = Path(MEMORY.name) / "local"
    if not out.exists():
        sweep.run(with_crashes(asked, folder), out, backend=LocalProcesses(2))
    return out


def good(out):
    """The rows that must be the same on all backends."""
    return [row for row in table(out) if row["error"] is None]


@pytest.fixture
def ray():
    """A real one on this machine; it leaves sockets and files to the garbage collector, and warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", module="ray")
        warnings.filterwarnings("ignore", message=".*RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", category=FutureWarning)
        yield ray_cluster._import_ray()


@pytest.mark.slow
def test_local_processes_and_ray_give_the_same_table(folder, asked, ray):
    local = on_local_processes(asked, folder)
    assert len([row for row in good(local) if row["kind"] == "strategy"]) == 12
    assert {path.name for path in (local / "experts").iterdir()} == {"tiny-nc-0", "tiny-nc-1"}
    assert not list(local.glob("runs/*/experts"))

    out, crashing = folder / "ray", with_crashes(asked, folder)
    result = sweep.run(crashing, out, backend=RayCluster())
    assert not ray.is_initialized()
    assert good(out) == good(local)
    weights = [path.relative_to(local) for path in local.glob("runs/*/student.safetensors")]
    assert len(weights) == 12
    assert all((out / path).read_bytes() == (local / path).read_bytes() for path in weights)

    # What crashed is kept, each with its own error, and begun again on request.
    raised = ["RuntimeError: over two lines"] * 2
    errors = [row["error"] for row in table(local) if row["error"] is not None]
    assert errors == [*raised, *["the process of the run ended with exit code 3"] * 2]
    assert [row.error for row in result.failed[:2]] == raised
    assert all(row.error.startswith("WorkerCrashedError: ") for row in result.failed[2:])
    for folder_of in (local, out):
        name = "tiny-nc--moody--training.iterations=4--generator.mood={}--seed=0.txt"
        texts = [(folder_of / "failures" / name.format(mood)).read_text() for mood in ("raise", "exit")]
        assert 'raise RuntimeError("over two\\nlines")' in texts[0]
        assert "in the mood to exit" in texts[1]
        assert "in the mood to raise" in (folder_of / "logs" / name.format("raise")).read_text()
    (Path(MEMORY.name) / "cure").touch()
    cured = sweep.run(crashing, out, resume=True, retry_failed=True, backend=LocalProcesses(1))
    assert cured.failed == ()
    accuracies = [[row.stream_accuracy for row in cured.rows if row.strategy == "noise"][:2]]
    moody = [row.stream_accuracy for row in cured.rows if row.strategy == "moody"]
    assert [moody[:2], moody[2:]] == accuracies * 2


@pytest.mark.slow
def test_kill_9_of_a_sweep_leaves_no_worker_and_it_goes_on(folder, asked):
    out = folder / "out"
    command = [sys.executable, "-m", "exml", "sweep", str(folder / "sweep.yaml"), "--out", str(out), "--workers", "1"]
    killed = subprocess.Popen([*command, "--quiet"], start_new_session=True)
    patient(lambda: len(list(out.glob("runs/*/result.json"))) >= 3, 120)
    children = Path(f"/proc/{killed.pid}/task").glob("*/children")
    workers = [pid for file in children for pid in file.read_text().split()]
    assert len(workers) == 1
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    patient(lambda: not any(alive(pid) for pid in workers), 20)
    assert 3 <= len(list(out.glob("runs/*/result.json"))) < 12

    assert sweep.run(asked, out, resume=True, backend=LocalProcesses(1)).failed == ()
    whole = [row for row in good(on_local_processes(asked, folder)) if row["strategy"] != "moody"]
    assert [{**row, "generator.mood": None} for row in table(out)] == whole
