"""Interruptions: a run that is killed, or whose files are damaged, ends with the same bytes or is refused by name.

The tests try a few random moments, bits and lengths. To try more:

    EXML_KILLS=40 EXML_FLIPS=10 uv run python -m pytest tests/test_interruptions.py
"""

import inspect
import json
import os
import random
import shutil
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from exml.core.errors import CheckpointError, ExmlWarning
from exml.engine import Training
from exml.experts._checkpoint import TrainingCheckpoint
from exml.learning import events
from tests import test_stream_run, tiny
from tests.test_cli import Nursery

KILLS, FLIPS = (int(os.environ.get(f"EXML_{name}", default)) for name, default in (("KILLS", 3), ("FLIPS", 1)))
UNEQUAL = {"seconds", "environment", "environments", "forecast"}
"""The keys whose values differ between equal runs."""
STATES = {
    "training": lambda event: isinstance(event, events.ExpertsProgress) and event.done == 3,
    "generation": lambda event: isinstance(event, events.GenerationProgress) and event.experience == 2,
    "distillation": lambda event: isinstance(event, events.DistillationProgress) and event.experience == 2,
    "learned": lambda event: isinstance(event, events.ExperienceFinished) and event.experience == 2,
}
"""Moments of which the folder of a run is kept."""


def equal_parts(plain):
    if isinstance(plain, dict):
        return {key: equal_parts(value) for key, value in plain.items() if key not in UNEQUAL}
    return [equal_parts(value) for value in plain] if isinstance(plain, list) else plain


def contents(folder):
    """The files of a run by path, without what may differ between equal runs."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in list(found):
        if name.endswith((".lock", "run.json")):
            del found[name]
        elif name.endswith("result.json"):
            found[name] = equal_parts(json.loads(found[name]))
        elif name.endswith("stream.jsonl"):
            lines = map(json.loads, found[name].splitlines())
            found[name] = [equal_parts(line) for line in lines if line["event"] not in ("opened", "rebuilt")]
    return found


def run_scenario(folder, *, resume=False, observers=()):
    tiny.run(
        "tiny-nc",
        {"one": tiny.inversion()},
        folder / "out",
        baselines=False,
        checkpoint_every=3,
        resume=resume,
        observers=observers,
    )


def run_stream(folder, *, resume=False, observers=()):
    test_stream_run.run_stream(
        folder / "experts",
        test_stream_run.inversion(),
        folder / "out",
        checkpoint_every=2,
        resume=resume,
        observers=observers,
    )


@pytest.fixture(scope="module", params=[run_scenario, run_stream])
def states(request, tmp_path_factory):
    """A function that runs or resumes, and copies of the folder: at some moments, and at the end."""
    place, copies = tmp_path_factory.mktemp("whole"), {}
    test_stream_run.fill(place / "experts")

    def copy_folder(event):
        for name in (name for name, reached in STATES.items() if name not in copies and reached(event)):
            copies[name] = tmp_path_factory.mktemp(name) / "copy"
            shutil.copytree(place, copies[name])

    with pytest.MonkeyPatch.context() as patch:
        tiny.register(patch)
        patch.setattr("exml.runs._stages.agreement", lambda *_, **__: None)
        patch.setattr("exml.runs._stages.save_figure", lambda _figure, path: Path(path).write_bytes(b"figure"))
        for figure in ("accuracy_figure", "samples_figure"):
            patch.setattr(f"exml.runs._stages.{figure}", lambda *_: None)
        patch.setitem(inspect.unwrap(TrainingCheckpoint.save).__globals__, "PERIOD", 0.0)
        request.param(place, observers=[copy_folder])
        yield request.param, {**copies, "finished": place}


def assert_restored_or_refused(states, state, name, folder, damage):
    """Damage a file of a state in a copy, and resume: the end is that of the whole run, or the error names the file."""
    resume, places = states
    shutil.copytree(places[state], folder)
    damage(folder / "out" / name)
    what, refused = f"{name} in {state}", None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            resume(folder, resume=True)
        except CheckpointError as error:
            refused = str(error)
    if refused is not None:
        assert name in refused or f"a run in {folder / 'out'}, got none" in refused, what
        assert len(refused.splitlines()) == 1
    else:
        assert contents(folder / "out") == contents(places["finished"] / "out"), what
        if state == "finished":
            assert any(name in str(warning.message) for warning in said if warning.category is ExmlWarning), what
    return "restored" if refused is None else "refused"


def damages(draws):
    """Functions that damage a file in random ways."""

    def flip(path):
        data = bytearray(path.read_bytes())
        bit = draws.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)

    def cut(path):
        data = path.read_bytes()
        path.write_bytes(data[: draws.randrange(len(data))])

    return [*[flip] * FLIPS, cut, Path.unlink]


@pytest.mark.parametrize("state", [*STATES, "finished"])
def test_a_damaged_file_is_restored_or_refused(states, tmp_path, state):
    if state not in states[1]:
        pytest.skip("nothing is trained")
    out, draws, ends = states[1][state] / "out", random.Random(state), {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = str(path.relative_to(out))
            for number, damage in enumerate(damages(draws)):
                folder = tmp_path / f"{len(ends)}-{number}"
                ends.setdefault(name, []).append(assert_restored_or_refused(states, state, name, folder, damage))
                shutil.rmtree(folder)
    assert set(ends.pop("run.json")) == {"refused"}
    for name, found in ends.items():
        assert set(found) == {"restored"} or name.startswith("checkpoint/"), name


@pytest.mark.parametrize("kind", ["scenario", "stream"])
def test_kill_9_at_random_moments(tmp_path, kind):
    training = Training(iterations=20, batch_size=8, learning_rate=0.003, optimizer="adam")
    tiny.inversion(training=training).save(tmp_path / "one.yaml")
    stream = ["learn", str(test_stream_run.fill(tmp_path / "experts"))]
    command = stream if kind == "stream" else ["run", "tiny-nc"]
    options = ["--strategy", str(tmp_path / "one.yaml"), "--checkpoint-every", "4", "--quiet"]
    nursery, draws, kills, place = Nursery(), random.Random(kind), 0, 0

    def start(out):
        resume = ["--resume"] if (out / "run.json").exists() else []
        nursery.start([*command, "--out", str(out), *options, *resume])

    with closing(nursery):
        begun = time.monotonic()
        start(tmp_path / "whole")
        assert nursery.wait() == 0
        seconds, wanted = time.monotonic() - begun, contents(tmp_path / "whole")
        while kills < KILLS:
            out, code = tmp_path / f"{place}" / "whole", -9
            while code == -9:
                start(out)
                if kills < KILLS and draws.random() < 0.9:
                    time.sleep(draws.uniform(0, seconds))
                    try:
                        code = nursery.kill()
                    except ProcessLookupError:
                        code = nursery.wait()
                    kills += code == -9
                else:
                    code = nursery.wait()
            assert code == 0
            assert contents(out) == wanted
            place += 1
