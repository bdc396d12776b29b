"""Ranks that are real processes, on gloo: the run of one process, and what happens when one of them fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import exml
from exml.runs import Result
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class Nursery:
    """Starts distributed runs whose ranks may fail."""

    def __init__(self, folder):
        self._folder, self._runs = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.nursery"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def live(self, arguments, *, size, **fault):
        """Run a command line on so many ranks; gives the exit codes and what each rank said."""
        self._runs += 1
        said = self._folder / f"said-{self._runs}"
        order = {"arguments": arguments, "size": size, "said": str(said), **fault}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return codes, [Path(f"{said}.{rank}").read_text() for rank in range(size)]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.process.communicate("")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """A strategy that shares out both generation and distillation, in double-quick time."""
    training = exml.engine.Training(iterations=20, batch_size=8, learning_rate=0.003, optimizer="adam", views=2)
    path = tmp_path_factory.mktemp("strategy") / "inversion.yaml"
    tiny.inversion(training=training).save(path)

    def make(out, *more):
        common = ["--strategy", str(path), "--checkpoint-every", "3", "--rank-timeout", "10"]
        return ["run", "tiny-nc", "--out", str(out), *common, *more]

    return make


@pytest.fixture(scope="module")
def alone(nursery, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    codes, said = nursery.live(arguments(out), size=1)
    assert codes == [0], said
    return out


def assert_same_student(out, alone):
    student, wanted = (load_file(path / "student.safetensors") for path in (out, alone))
    for name, tensor in wanted.items():
        torch.testing.assert_close(student[name], tensor, rtol=1e-3, atol=1e-3)
    assert files_in(out) == files_in(alone)


def files_in(folder):
    """The names of all files, without the checksums that the names of a checkpoint's files contain."""
    return sorted(re.sub("-[0-9a-f]{16}", "", path.name) for path in folder.rglob("*"))


@pytest.mark.parametrize("size", [2, 3])
def test_a_run_on_several_ranks_is_that_of_one(tmp_path, nursery, arguments, alone, size):
    codes, said = nursery.live(arguments(tmp_path / "run"), size=size)
    assert codes == [0] * size, said
    assert "stream" in said[0].lower()
    assert not any(said[1:])  # one rank speaks
    assert_same_student(tmp_path / "run", alone)
    result = Result.load(tmp_path / "run" / "result.json")
    assert result.environments[0].ranks == size


FAULTS = [
    ("kill", "generation", 1),
    ("kill", "distillation", 0),
    ("stop", "distillation", 1),
    ("hang", "generation", 0),
    ("raise", "distillation", 1),
]


@pytest.mark.parametrize(("fault", "place", "at_fault"), FAULTS, ids=lambda value: str(value))
def test_a_rank_that_fails_ends_all_and_the_run_goes_on(tmp_path, nursery, arguments, alone, fault, place, at_fault):
    """Within the timeout; one rank reports the reason; then the run resumes with fewer ranks."""
    out = tmp_path / "run"
    codes, said = nursery.live(arguments(out), size=2, fault=fault, place=place, at_fault=at_fault)
    ended = {"kill": -9, "stop": -9, "hang": -9, "raise": 2}[fault]
    assert codes[at_fault] == ended, (codes, said)
    assert codes[1 - at_fault] == 1, (codes, said)
    errors = re.findall(r"^exml: error: .*$", "\n".join(said), re.MULTILINE)
    assert len(errors) == 1, said
    assert ("an image" in errors[0]) == (fault == "raise")
    assert not (out / "result.json").exists()
    codes, said = nursery.live(arguments(out, "--resume"), size=1)
    assert codes == [0], said
    assert_same_student(out, alone)


def test_bad_input_is_said_once(tmp_path, nursery, arguments):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    codes, said = nursery.live(arguments(tmp_path / "run"), size=2)
    assert sorted(codes) == [1, 2], said
    assert "\n".join(said).count("error") == 1
    assert "new or empty folder" in said[0]


@pytest.mark.slow
def test_torchrun(tmp_path, arguments, alone):
    """The command of the documentation."""
    program = "import sys; from exml import cli; from exml.scenarios import registry; from tests import tiny; "
    program += "registry._FACTORIES.update(tiny.FACTORIES); sys.exit(cli.main())"
    (tmp_path / "run.py").write_text(program)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "run.py"), *arguments(tmp_path / "run")],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same_student(tmp_path / "run", alone)
