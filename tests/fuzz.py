"""Fuzzing: hostile files are refused in one message, or accepted with nothing wrong.

    uv run python tests/fuzz.py --minutes 30             # all targets in turn
    uv run python tests/fuzz.py --minutes 5 --target card --seed 7
    uv run python tests/fuzz.py --replay FILE            # a saved failure

Hypothesis draws a case: a few edits of valid files. Each case runs in a forked child with limits of memory and time,
in a folder of its own. A failure is reduced to a small case and saved as JSON.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import torch
from hypothesis import strategies as st

import exml
import exml.cli
from exml import models, runs, scenarios
from exml.core.errors import ExmlError, ExmlWarning
from exml.core.serialization import to_plain
from exml.engine import Training
from exml.experts import ExpertProfile, ExpertStream, load_expert, read_card, save_expert
from exml.generators import GaussianNoise, ModelInversion
from exml.learning.events import DistillationProgress, Event, ExpertRefused
from exml.runs import _stages
from exml.runs import sweep as sweeps
from tests.hostile import (
    BYTES,
    FOLDERS,
    KINDS,
    NAMES,
    WEIGHTS,
    edit_bytes,
    edit_folder,
    edited,
    edited_record,
    edited_weights,
    forged,
    put,
    tree_edits,
)
from tests.tiny import make as make_tiny

SECONDS, BYTES_OF_MEMORY, CHARACTERS = 10.0, 1_500_000_000, 1_000
"""Limits of a case: its processor time, which other work delays less than a clock's, its resident memory, and the
length of its message."""
HANG = 60.0
"""Seconds on the clock after which a case is taken to wait for something that never comes."""
RUN = 2.5
"""Seconds on the clock after which a run is asked to stop."""
SHRINKING = 20.0
"""Seconds to look for a smaller case that fails in the same way."""
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None

# ---- what cases begin with

CONV_NET = {"channels": 1, "classes": 2, "image_size": 8, "widths": [2]}
ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "conv-net": (CONV_NET, (1, 8, 8)),
    "slim-resnet18": ({"channels": 1, "classes": 2, "width": 1}, (1, 8, 8)),
    "lenet5": ({"channels": 1, "classes": 2, "image_size": 16}, (1, 16, 16)),
    "mobilenet-v2": ({"classes": 2}, (3, 32, 32)),
    "normalized": ({"module": {"name": "conv-net", "settings": CONV_NET}}, (1, 8, 8)),
}
"""Experts' architectures, and the shapes of their images."""
QUICK = exml.Strategy(
    generator=GaussianNoise(),
    combiner=exml.combiners.ByClass(),
    buffer=exml.buffers.Cumulative(12),
    loss=exml.losses.Distillation(cross_entropy=1.0),
    training=Training(iterations=6, batch_size=4, learning_rate=0.01),
    normalizer=exml.normalizers.CenterLogits(),
)
INVERSION = attrs.evolve(
    QUICK,
    generator=ModelInversion(iterations=3, learning_rate=0.1, batch_size=4),
    prior=exml.priors.Sum((exml.priors.L2Norm(1e-3), exml.priors.BatchNormStatistics(0.1))),
    augmentation=exml.augmentation.Augmentation(shift=1),
)
SWEEP = {"scenarios": ["tiny-nc"], "strategies": ["exml"], "seeds": [0, 1], "fields": {"training.iterations": [5, 9]}}
Files = dict[str, bytes]


@scenarios.register("tiny-nc")
def tiny(seed: int, split: scenarios.Split) -> scenarios.Scenario:
    """A scenario that loads in a moment."""
    return make_tiny("tiny-nc", seed, split)


def read_files(folder: Path) -> Files:
    """The files of a folder by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: Path | str, files: Files) -> Path:
    """The inverse of :func:`read_files`."""
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path(folder)


class World:
    """Valid files. Making them imports in the parent what children need."""

    def __init__(self, scratch: Path) -> None:
        self.experts: dict[str, Files] = {}
        for name, (settings, shape) in ARCHITECTURES.items():
            save_expert(exml.Expert(models.build(name, **settings), (0, 1), shape, name="e"), scratch / name, "e")
            self.experts[name] = read_files(scratch / name)
        for place, classes in enumerate([(0, 1), (2, 3), (1, 4)]):
            expert = exml.Expert(models.build("conv-net", **CONV_NET), classes, (1, 8, 8), mean=(0.3,), name="e")
            save_expert(expert, scratch / "stream", f"e{place}", order=place)
        self.stream = read_files(scratch / "stream")
        self.runs: dict[str, Files] = {}
        self.runs["stopped"] = self._run(scratch, "stopped", stops=True)
        self.runs["finished"] = self._run(scratch, "finished", stops=False)
        runs.train_zoo(["tiny-nc"], scratch / "zoo", workers=1)
        self.zoo = read_files(scratch / "zoo")
        self.goal = {name: self.runs["finished"][name] for name in ("config.json", "model.safetensors")}
        run_command(scratch / "stream", scratch / "again", INVERSION, seconds=600.0)  # no case, whatever else runs

    def _run(self, scratch: Path, name: str, *, stops: bool) -> Files:
        stop = runs.Stop()

        def at_a_step(event: Event, /) -> None:
            if isinstance(event, DistillationProgress) and (event.experience, event.done) == (2, 4):
                self.runs["killed"] = read_files(scratch / name)
                if stops:
                    stop.ask()

        source = runs.FolderExperts(scratch / "stream")
        runs.run(source, {"s": QUICK}, scratch / name, stop=stop, observers=[at_a_step])
        return read_files(scratch / name)


WORLD: World

# ---- targets


class WrongError(Exception):
    """A case is neither refused in one message nor accepted with nothing wrong."""


def require(ok: object, kind: str) -> None:
    """Fail unless something holds."""
    if not ok:
        raise WrongError(kind)


def check_expert(expert: exml.Expert) -> None:
    """An accepted expert gives finite logits of the right shape."""
    expert.check()
    logits = expert.logits(torch.rand(3, *expert.image_shape))
    require(logits.shape == (3, len(expert.outputs)), "accepted an expert with logits of another shape")
    require(logits.isfinite().all(), "accepted an expert with logits that are not finite")


def run_command(stream: Path, out: Path, strategy: exml.Strategy, *options: str, seconds: float = RUN) -> None:
    """``exml learn`` over a folder of experts; stopped by SIGTERM after some seconds."""
    strategy.save(out.with_name("s.yaml"))
    over = threading.Event()

    def stop() -> None:
        if not over.wait(seconds):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    paths = [stream, "--out", out, "--strategy", out.with_name("s.yaml")]
    code = exml.cli.main(["learn", *map(str, paths), "--quiet", *options])
    over.set()
    sys.stderr.flush()
    lines = Path("stderr").read_text(errors="replace").splitlines() if Path("stderr").exists() else []
    if code == 0:
        check_expert(load_expert(out))
    require(code in (0, 2, 130), f"exit code {code}")
    lines = [line for line in lines if not line.startswith("  - ")]  # of a list of everything that is wrong
    require(len(lines) == (code != 0), f"{len(lines)} lines on stderr with exit code {code}")
    if code == 2:
        check_message(lines[0].removeprefix("exml: error: "))
        raise ExmlError(expected=lines[0], got="", remedy="")


def fuzz_card(architecture: str, edits: list[Any]) -> None:
    """A card: read, written again, loaded, and in a profile."""
    files = WORLD.experts[architecture]
    card, wrong = edited(json.loads(files["e.json"]), edits)
    folder = write_files("in", {**files, "e.json": card})
    found = read_card(folder / "e.json")
    require(not wrong, "accepted NaN, an infinity or a repeated key")
    write_files("out", {"e.json": json.dumps(to_plain(found)).encode()})
    require(read_card("out/e.json") == found, "a card changed when it was written and read again")
    check_expert(load_expert(folder / "e.json"))
    ExpertProfile.from_folder(folder)


def fuzz_weights(architecture: str, edits: list[Any]) -> None:
    """The file of weights, without a checksum."""
    files = WORLD.experts[architecture]
    card = json.loads(files["e.json"]) | {"sha256": None}
    weights = edited_weights(files["e.safetensors"], edits)
    folder = write_files("in", {"e.json": json.dumps(card).encode(), "e.safetensors": weights})
    with suppress(ExmlError):  # a profile may refuse what load_expert accepts
        ExpertProfile.from_folder(folder)
    check_expert(load_expert(folder / "e.json"))


def fuzz_strategy(form: str, edits: list[Any], suffix: str) -> None:
    """The file of a strategy: loaded, written again, and run."""
    text, wrong = edited(INVERSION.to_dict(), edits, form)
    strategy = exml.Strategy.load(write_files("in", {f"s{suffix}": text}) / f"s{suffix}")
    require(not (wrong and suffix == ".json"), "accepted NaN, an infinity or a repeated key")
    require(exml.Strategy.from_yaml(strategy.to_yaml()) == strategy, "a strategy changed on its way through YAML")
    require(exml.Strategy.from_dict(strategy.to_dict()) == strategy, "a strategy changed on its way through a dict")
    require(isinstance(hash(strategy), int) and repr(strategy), "a strategy that does not print")
    run_command(write_files("in/experts", WORLD.stream), Path("out/run"), strategy)


def fuzz_student(form: str, edits: list[Any], text: str) -> None:
    """``--student``, as text or as a file."""
    if form != "text":
        plain = {"name": "conv-net", "settings": CONV_NET | {"classes": 5}}
        text = str(write_files("in", {"m.yaml": edited(plain, edits, form)[0]}) / "m.yaml")
    run_command(write_files("in/experts", WORLD.stream), Path("out/run"), QUICK, f"--student={text}")


def fuzz_sweep(form: str, edits: list[Any]) -> None:
    """The file of a sweep: loaded, saved, and planned."""
    text, _ = edited(SWEEP, edits, form)
    sweep = sweeps.Sweep.load(write_files("in", {"w.yaml": text}) / "w.yaml")
    sweep.save("out/w.yaml")
    require(sweeps.Sweep.load("out/w.yaml") == sweep, "a sweep changed when it was saved and loaded")
    require(sweeps.plan(sweep, "out/sweep").runs, "a plan without runs")


def fuzz_damage(base: str, file: int, edits: list[Any]) -> None:
    """One damaged file of a run that is resumed: the same bytes, or refused; nothing is written through a link."""
    out = write_files("out", WORLD.runs[base])
    path = sorted(path for path in out.rglob("*") if path.is_file())[file % len(WORLD.runs[base])]
    before = path.read_bytes()
    if edits[0][0] == "kind":
        put(edits[0][1], path)
    else:
        path.write_bytes(edit_bytes(before, edits[0]))
    try:
        runs.run(runs.FolderExperts(write_files("in", WORLD.stream)), {"s": QUICK}, out, resume=True)
    finally:
        require(all(data == before for data in read_files(Path("outside")).values()), "wrote through a link")
    same = all((out / name).read_bytes() == goal for name, goal in WORLD.goal.items())
    require(same, f"another student after damage of {path.name.partition('-')[0]}")


def fuzz_forgery(base: str, file: int, edits: list[Any]) -> None:
    """One file of a run that is resumed, with valid checksums."""
    files = WORLD.runs[base]
    names = [name for name in sorted(files) if name.endswith((".json", ".jsonl", ".safetensors"))]
    name = names[file % len(names)]
    if name.endswith(".json"):
        data = edited_record(files[name], edits)
    else:
        data = edited_weights(files[name], edits) if name.endswith(".safetensors") else files[name]
    for edit in edits:
        data = edit_bytes(data, edit)
    out = write_files("out", forged(files, name, data))
    runs.run(runs.FolderExperts(write_files("in", WORLD.stream)), {"s": QUICK}, out, resume=True)
    check_expert(load_expert(out))


def fuzz_zoo(edits: list[Any]) -> None:
    """A zoo of trained experts: faults are named, and the other experts are evaluated."""
    folder = write_files("in", WORLD.zoo) / "tiny-nc-0"
    names = ("expert-1", "expert-2")
    sound = edit_folder(folder, edits, names) & {*names}
    evaluation = runs.evaluate_zoo("in")
    for fault in evaluation.faults.values():
        check_message(fault)
    evaluated = {str(file) for file in WORLD.zoo} - {str(file) for file in evaluation.faults}
    require(all(any(name in file for file in evaluated) for name in sound), "left out a sound expert")


def fuzz_folder(edits: list[Any], how: str) -> None:
    """A folder of experts, some of which are no such files."""
    folder = write_files("in", WORLD.stream)
    sound = edit_folder(folder, edits)
    if how == "follow":
        require(sound <= _followed(folder, len(sound)), "a followed folder left out a sound expert")
        return
    try:
        if how == "stream":
            for expert in ExpertStream.from_folder(folder):
                check_expert(expert)
        elif how == "profile":
            ExpertProfile.from_folder(folder)
        else:
            run_command(folder, Path("out/run"), QUICK)
    except ExmlError:
        require(len(sound) < 3, "refused a folder of sound experts")
        raise
    require(not any(path.is_symlink() for path in folder.iterdir()), "followed a link")


def _followed(folder: Path, sound: int) -> set[str]:
    """The experts that a run learns from a followed folder, within a few seconds."""
    stop, began, log = runs.Stop(), time.monotonic(), Path("out/run/stream.jsonl")
    patience = RUN * busy()

    def check_refusal(event: Event, /) -> None:
        if isinstance(event, ExpertRefused):
            check_message(event.reason)

    def end() -> None:
        while time.monotonic() < began + patience:
            time.sleep(0.1)
            learned = log.read_text().count('"learned"') if log.exists() else 0
            if learned >= sound and time.monotonic() > began + 0.5:
                break
        stop.ask()

    threading.Thread(target=end, daemon=True).start()
    source = runs.FolderExperts(folder, follow=True, poll=0.02)
    runs.run(source, {"s": QUICK}, "out/run", stop=stop, observers=[check_refusal])
    lines = [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []
    return {line["file"] for line in lines if line["event"] == "begun"}


def fuzz_names(name: str, where: str) -> None:
    """Names of an expert, of files and of folders."""
    name = os.fsdecode(bytes.fromhex(name))
    module = models.build("conv-net", **CONV_NET)
    expert = exml.Expert(module, (0, 1), (1, 8, 8), name=name if where == "expert" else "e")
    card = save_expert(expert, "out/experts", name if where == "file" else None)
    require(load_expert(card).fingerprint() == expert.fingerprint(), "an expert changed when it was saved")
    try:
        stream = write_files("in" + f"/{name}" * (where == "folder"), WORLD.stream)
    except (OSError, ValueError):  # the system has no such names
        return
    _stages.save_figure = runs.save_figure  # titles hold names
    run_command(stream, Path("out", name if where == "out" else "run"), QUICK)


def edits_of(*edits: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[list[Any]]]:
    """One or two edits."""
    return st.lists(st.one_of(*edits), min_size=1, max_size=2)


STUDENTS = ["conv-net:widths=[1000000000]", "lenet5:image_size=1e9", "normalized", "conv-net:widths=[[8]]", "a:b: c"]
BASE, DAMAGE = (
    st.sampled_from(["killed", "stopped", "finished"]),
    BYTES | st.sampled_from(KINDS).map(lambda kind: ["kind", kind]),
)
FORM, ARCHITECTURE = st.sampled_from(["json", "block"]), st.sampled_from([*ARCHITECTURES])
IN_JSON, IN_YAML = edits_of(tree_edits(), BYTES), edits_of(tree_edits(in_yaml=True), BYTES)
TEXT = st.sampled_from([*STUDENTS, "conv-net:widths=" + "[" * 99]) | st.text(max_size=30)
NAME = st.sampled_from([name.hex() for name in NAMES]) | st.binary(min_size=1, max_size=30).map(bytes.hex)
TARGETS: dict[str, tuple[Callable[..., None], st.SearchStrategy[dict[str, Any]]]] = {
    "card": (fuzz_card, st.fixed_dictionaries({"architecture": ARCHITECTURE, "edits": IN_JSON})),
    "weights": (
        fuzz_weights,
        st.fixed_dictionaries({"architecture": ARCHITECTURE, "edits": edits_of(WEIGHTS, tree_edits(), BYTES)}),
    ),
    "strategy": (
        fuzz_strategy,
        st.fixed_dictionaries({"form": FORM, "edits": IN_YAML, "suffix": st.sampled_from([".yaml", ".json"])}),
    ),
    "student": (
        fuzz_student,
        st.fixed_dictionaries({"form": FORM | st.just("text"), "edits": IN_YAML, "text": TEXT}),
    ),
    "sweep": (fuzz_sweep, st.fixed_dictionaries({"form": FORM, "edits": IN_YAML})),
    "damage": (
        fuzz_damage,
        st.fixed_dictionaries(
            {"base": BASE, "file": st.integers(0, 99), "edits": st.lists(DAMAGE, min_size=1, max_size=1)}
        ),
    ),
    "forgery": (
        fuzz_forgery,
        st.fixed_dictionaries(
            {"base": BASE, "file": st.integers(0, 99), "edits": edits_of(WEIGHTS, tree_edits(), BYTES)}
        ),
    ),
    "zoo": (fuzz_zoo, st.fixed_dictionaries({"edits": edits_of(FOLDERS)})),
    "folder": (
        fuzz_folder,
        st.fixed_dictionaries(
            {"edits": edits_of(FOLDERS), "how": st.sampled_from(["stream", "profile", "run", "follow"])}
        ),
    ),
    "names": (
        fuzz_names,
        st.fixed_dictionaries({"name": NAME, "where": st.sampled_from(["expert", "file", "folder", "out"])}),
    ),
}
"""Each target and its cases."""

# ---- a case in a child


@attrs.frozen
class Outcome:
    """What became of a case: refused, accepted or failed; equal failures have the same ``kind``."""

    result: str
    kind: str = ""
    detail: str = ""


def check_message(message: str, lines: int = 1) -> None:
    """A message is one line of printable characters."""
    where = place_of(sys.exception())
    require(message.count("\n") < lines, f"a message of several lines{where}")
    require(len(message) <= CHARACTERS * lines, f"a message of more than {CHARACTERS} characters{where}")
    require(message.replace("\n", "").isprintable(), f"a message with characters that do not print{where}")


def place_of(error: BaseException | None) -> str:
    """Where in exml an error arose."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    ours = [frame for frame in frames if f"{os.sep}exml{os.sep}" in frame.filename] or list(frames)
    return f" in {Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""


def examine(target: str, case: dict[str, Any]) -> Outcome:
    """Run a case in this process."""
    try:
        try:
            TARGETS[target][0](**case)
        except ExmlError as error:
            check_message(str(error), 1 + len(getattr(error, "problems", ())))
            cause: BaseException | None = error
            while cause is not None:  # without the limit, it would have taken the memory
                exhausted = isinstance(cause, MemoryError) or "can't allocate memory" in str(cause)
                require(not exhausted, f"memory{place_of(cause)}")
                cause = cause.__cause__ or cause.__context__
            return Outcome("refused", detail=str(error))
    except WrongError as wrong:
        return Outcome("failed", str(wrong), traceback.format_exc())
    except BaseException as error:
        return Outcome("failed", f"{type(error).__name__}{place_of(error)}", traceback.format_exc())
    return Outcome("accepted")


def busy() -> float:
    """By how much a busy machine slows a case down."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_case(target: str, case: dict[str, Any]) -> Outcome:
    """Run a case in a child with limits."""
    with tempfile.TemporaryDirectory(dir=SHM, prefix="exml-fuzz-") as folder:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _in_child(target, case, folder, write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read() if select.select([pipe], [], [], 2 * HANG)[0] else b""
        if not answer:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        trace, made = Path(folder, "trace").read_text(), {path.name for path in Path(folder).iterdir()}
    if made - {"in", "out", "outside", "trace", "stdout", "stderr"}:
        return Outcome("failed", "made files elsewhere", str(made))
    if not answer and ("Timeout" in trace or not trace or os.WTERMSIG(status) == signal.SIGPROF):
        frames = [line for line in trace.splitlines() if f"{os.sep}exml{os.sep}" in line] or [""]
        return Outcome("failed", f"too slow {frames[0].rpartition(os.sep)[2]}", trace)
    if not answer:
        return Outcome("failed", f"ended with status {status}", trace)
    outcome = Outcome(**json.loads(answer))
    if usage.ru_maxrss * 1024 > BYTES_OF_MEMORY and outcome.result != "failed":
        return Outcome("failed", "too much memory", f"{usage.ru_maxrss // 1024} MiB")
    return outcome


def _in_child(target: str, case: dict[str, Any], folder: str, write: int) -> None:
    os.chdir(folder)
    Path("out").mkdir()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    faulthandler.enable(trace := Path("trace").open("w"))  # noqa: SIM115
    faulthandler.dump_traceback_later(HANG, exit=True, file=trace)
    faulthandler.register(signal.SIGPROF, trace, chain=True)  # prints where it was, and ends the process
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + max(BYTES_OF_MEMORY - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 300_000_000)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    executed: list[str] = []
    harmful = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
    sys.addaudithook(lambda event, _: executed.append(event) if event in harmful else None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = examine(target, case)
    foreign = [str(warning.message) for warning in warned if not issubclass(warning.category, ExmlWarning)]
    if executed:
        outcome = Outcome("failed", f"executed {executed[0]}")
    elif foreign and outcome.result != "failed":
        outcome = Outcome("failed", f"a warning that is not ours: {foreign[0][:60]}", "\n".join(foreign))
    with os.fdopen(write, "w") as pipe:
        json.dump(attrs.asdict(outcome), pipe)
    os._exit(0)


# ---- hunting


class FailedError(Exception):
    """Tells hypothesis that a case failed."""


@attrs.define
class Hunt:
    """The search for failures of one target; counts outcomes, and saves a small case of each kind of failure."""

    target: str
    save: Path
    found: Counter[str] = attrs.field(factory=Counter[str])
    kinds: set[str] = attrs.field(factory=set[str])
    _tried: dict[str, Outcome] = attrs.field(factory=dict[str, Outcome])
    _failure: dict[str, Any] = attrs.field(factory=dict[str, Any])
    _deadline: float = 0.0

    def run(self, seed: int, deadline: float, examples: int) -> None:
        """Draw cases until the time is over, or until there are enough."""
        while time.monotonic() < deadline and (left := examples - self.found.total()) > 0:
            self._tried, self._failure, self._deadline = {}, {}, deadline
            settings = hypothesis.settings(
                max_examples=min(200, left),
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            )
            drawn = hypothesis.given(TARGETS[self.target][1])(self._probe)
            try:
                settings(hypothesis.seed(seed + self.found.total())(drawn))()
            except FailedError:
                self._report()

    def _probe(self, case: dict[str, Any]) -> None:
        key = json.dumps(case)
        if key not in self._tried:
            if time.monotonic() > self._deadline:
                return
            self._tried[key] = run_case(self.target, case)
            if not self._failure:
                self.found[self._tried[key].result] += 1
        outcome = self._tried[key]
        if outcome.result != "failed" or outcome.kind in self.kinds:
            return
        if not self._failure:
            self._deadline = time.monotonic() + SHRINKING
        if self._failure.get("kind", outcome.kind) == outcome.kind:
            self._failure = {"target": self.target, "case": case, "kind": outcome.kind, "detail": outcome.detail}
            raise FailedError(outcome.kind)

    def _report(self) -> None:
        self.save.mkdir(parents=True, exist_ok=True)
        path = self.save / f"{self.target}-{len(self.kinds)}.json"
        path.write_text(json.dumps(self._failure, indent=1))
        self.kinds.add(self._failure["kind"])
        print(f"  {self.target}: {self._failure['kind']}: {path}", flush=True)


def main() -> int:
    """The command line; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(description="Fuzz exml.")
    parser.add_argument("--minutes", type=float, default=1.0, help="in total")
    parser.add_argument("--examples", type=int, default=10**9, help="of each target, at most")
    parser.add_argument("--target", choices=TARGETS, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path(tempfile.gettempdir(), "exml-fuzz"), help="for failures")
    parser.add_argument("--replay", type=Path, help="a saved failure")
    given = parser.parse_args()
    global WORLD
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _stages.save_figure = lambda *_: None  # drawing takes longer than everything else
    with tempfile.TemporaryDirectory(dir=SHM, prefix="exml-fuzz-") as scratch:
        WORLD = World(Path(scratch))
        if given.replay is not None:
            saved = json.loads(given.replay.read_text())
            outcome = run_case(saved["target"], saved["case"])
            print(saved["case"], outcome.detail, f"{outcome.result} {outcome.kind}", sep="\n")
            return int(outcome.result == "failed")
        hunts = [Hunt(target, given.save) for target in given.target or TARGETS]
        for hunt in hunts:
            hunt.run(given.seed, time.monotonic() + 60 * given.minutes / len(hunts), given.examples)
            counts = ", ".join(f"{hunt.found[result]} {result}" for result in ("refused", "accepted", "failed"))
            print(
                f"{hunt.target}: {hunt.found.total()} cases: {counts}; kinds of failure: {len(hunt.kinds)}", flush=True
            )
    return int(any(hunt.kinds for hunt in hunts))


if __name__ == "__main__":
    sys.exit(main())
