"""Fuzzing: hostile files are refused in one message, or accepted with nothing wrong.

    uv run python tests/fuzz.py --minutes 30             # all targets in turn
    uv run python tests/fuzz.py --minutes 5 --target card --seed 7
    uv run python tests/fuzz.py --replay FILE            # one saved failure

Hypothesis draws a *case*: a short list of mutations of valid files. Each case runs in a forked child with limits of
memory and time, and with its own folder. A failure is shrunk and saved as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load, save
from tiny import make as make_tiny

import exml
import exml.cli
from exml import models, runs, scenarios
from exml.core.errors import ExmlError, ExmlWarning
from exml.core.serialization import to_plain
from exml.engine import Training
from exml.experts import ExpertProfile, ExpertStream, load_expert, read_card, save_expert
from exml.generators import GaussianNoise, ModelInversion
from exml.runs import _stages
from exml.runs import sweep as sweeps

SECONDS, BYTES, CHARACTERS = 5.0, 1_500_000_000, 1_000
"""Limits of a case: time, resident memory, and the length of its one message."""
SHRINKING = 20.0
"""Seconds for the search for a smaller case that fails in the same way."""
SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None

# ---------------------------------------------------------------------------------------------------- hostile fragments

_DEEP = 100_000
_ALIASES = "[&a0 [x, x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)) + "]"
_NUMBERS = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "9",
    "2.5",
    "-0.0",
    "1e-320",
    "1e308",
    "1e30",
    "3.4e38",
    "100",
    "30000",
    "1000000",
]
_NUMBERS += [str(2**31), str(10**9), str(2**63), "9" * 30, "-" + "9" * 400]
_STRINGS = [
    "",
    "a",
    "\x00",
    "\n",
    "\x1b[31mred\x1b[0m",
    "\u202egnp",
    "e" + "\u0301" * 2_000,
    "../../x",
    "/dev/zero",
    "{}",
]
FRAGMENTS = {
    **{text[:20]: text for text in _NUMBERS},
    **{ascii(text)[:12]: json.dumps(text) for text in _STRINGS},
    "5,000 digits": "9" * 5_000,
    "1e999": "1e999",
    "NaN": "NaN",
    "lone surrogate": '"\\ud800"',
    "10 MB": json.dumps("x" * 10_000_000),
    "[]": "[]",
    "{}": "{}",
    "[[1], [2]]": "[[1], [2]]",
    "million": "[" + "0, " * 1_000_000 + "0]",
    "deep list": "[" * _DEEP + "]" * _DEEP,
    "deep map": '{"a": ' * _DEEP + "1" + "}" * _DEEP,
    "many keys": json.dumps({f"k{i}": i for i in range(100_000)}),
    "syntax": "{]",
}
"""Values of JSON by name, most of which YAML reads too."""
YAML_FRAGMENTS = {
    "call": '!!python/object/apply:os.system ["touch CANARY"]',
    "new": "!!python/object/new:os.system [touch CANARY]",
    "module": "!!python/module:this",
    "tag": "!unknown x",
    "aliases": _ALIASES,
    "recursive": "&r [*r]",
    "lost alias": "*nowhere",
    "merge": "{<<: [{a: 1}], b: 2}",
    "binary": '!!binary "AAAA"',
    "set": "!!set {a, b}",
    "date": "2026-01-01",
    "bad date": "2026-99-99",
    "sexagesimal": "190:20:30",
    ".inf": ".inf",
    ".nan": ".nan",
    "bad int": "!!int x",
    "bad float": "!!float x",
    "key": "{? [a, b] : c}",
    "hash": "{{a: 1}: 2}",
    "document": "\n---\n",
    "directive": "\n%TAG ! tag:x,2000:\n",
    "tab": "\n\t- a",
}
_REFUSED = {"1e999", "NaN", "syntax"}
"""Fragments that no JSON reader may accept, wherever they are."""


def fragments(*, extra: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """``@NAME`` of a hostile fragment, or a short JSON value."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    values = st.recursive(scalars, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts))
    return st.sampled_from([f"@{name}" for name in (*FRAGMENTS, *extra)]) | values.map(json.dumps)


def expand(fragment: str) -> str:
    """The text of a fragment."""
    return {**FRAGMENTS, **YAML_FRAGMENTS}[fragment[1:]] if fragment.startswith("@") else fragment


# ------------------------------------------------------------------------------------------------------------ mutations

PLACES = st.integers(0, 999)
TREE = ("set", "number", "rename", "repeat", "drop")


def tree_edits(*, extra: tuple[str, ...] = ()) -> st.SearchStrategy[list[Any]]:
    """Edits of a document: replace a value or a number, rename, repeat or drop a key."""
    values = fragments(extra=extra)
    numbers = st.tuples(st.just("number"), PLACES, st.sampled_from([f"@{text[:20]}" for text in _NUMBERS]))
    keys = st.tuples(st.sampled_from(["rename", "repeat"]), PLACES, values)
    return (numbers | st.tuples(st.just("set"), PLACES, values) | keys | st.tuples(st.just("drop"), PLACES)).map(list)


BYTE_EDITS = (
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7))
    | st.tuples(st.just("cut"), st.integers(0, 10**6))
    | st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=9).map(bytes.hex))
    | st.tuples(st.just("line"), st.sampled_from(["drop", "repeat", "indent", "swap"]), PLACES)
    | st.tuples(st.just("whole"), st.sampled_from(["empty", "zeros", "pickle", "null", "bom", "utf-16"]))
).map(list)


class Pickled:
    """What a pickle would run, if anyone unpickled it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch CANARY",)


def edit_bytes(data: bytes, edit: list[Any]) -> bytes:
    """Apply one of BYTE_EDITS; positions are in millionths."""
    match edit:
        case ["flip", place, bit] if data:
            place = place * (len(data) - 1) // 10**6
            return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        case ["cut", place]:
            return data[: place * len(data) // 10**6]
        case ["insert", place, text]:
            place = place * len(data) // 10**6
            return data[:place] + bytes.fromhex(text) + data[place:]
        case ["line", what, place]:
            lines = data.splitlines(keepends=True) or [b""]
            place %= len(lines)
            one, other = lines[place], lines[place - 1]
            lines[place] = {"drop": b"", "repeat": one + one, "indent": b"  " + one, "swap": other}[what]
            return b"".join(lines)
        case ["whole", what]:
            whole = {"empty": b"", "zeros": bytes(len(data)), "pickle": pickle.dumps(Pickled()), "null": b"null"}
            return whole.get(what) or {
                "bom": b"\xef\xbb\xbf" + data,
                "utf-16": data.decode("latin1").encode("utf-16"),
            }.get(what, b"")
    return data


class Document:
    """JSON that can hold what Python's objects cannot: raw text as a value, a key twice."""

    def __init__(self, plain: Any) -> None:
        self._root = [self._node(plain)]
        self.wrong = False
        """Whether no reader may accept it."""

    def _node(self, plain: Any) -> Any:
        if isinstance(plain, dict):
            return ("{}", [[json.dumps(key), self._node(value)] for key, value in plain.items()])
        if isinstance(plain, list):
            return ("[]", [["", self._node(value)] for value in plain])
        return json.dumps(plain)

    def _items(self, node: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """All items, each with the list that holds it."""
        if isinstance(node, tuple):
            for item in node[1]:
                yield node[1], item
                yield from self._items(item[1])

    def edit(self, edit: list[Any]) -> None:
        """Apply one of :func:`tree_edits`; an edit that does not apply changes nothing."""
        items = list(self._items(self._root[0]))
        if edit[0] == "number":
            items = [(siblings, item) for siblings, item in items if str(item[1])[-1:].isdigit()]
        elif edit[0] != "set":
            items = [(siblings, item) for siblings, item in items if item[0]]
        if not items:
            return
        self.wrong |= str(edit[-1])[1:] in _REFUSED
        if edit[:2] == ["set", 999]:
            self._root = [expand(edit[-1])]
            return
        siblings, item = items[edit[1] % len(items)]
        match edit:
            case ["set" | "number", _, value]:
                item[1] = expand(value)
            case ["rename", _, value]:
                item[0] = expand(value)
            case ["repeat", _, value]:
                siblings.append([item[0], expand(value)])
                self.wrong = True
            case ["drop", _]:
                siblings.remove(item)

    def text(self) -> str:
        """The document as text."""

        def dump(node: Any) -> str:
            if isinstance(node, str):
                return node
            (left, right), items = node
            return left + ", ".join(f"{key}: {dump(value)}" if key else dump(value) for key, value in items) + right

        return dump(self._root[0])


def edited(plain: Any, edits: list[Any], form: str = "json") -> tuple[bytes, bool]:
    """A document after edits of its tree, then of its bytes; and whether no reader may accept it."""
    document = Document(plain)
    for edit in edits:
        if edit[0] in TREE and form == "json":
            document.edit(edit)
    text = document.text() if form == "json" else yaml.safe_dump(plain, sort_keys=False)
    data = text.encode("utf-8", "surrogatepass")
    for edit in edits:
        data = edit_bytes(data, edit)
    return data, document.wrong and not any(edit[0] in ("cut", "whole", "line") for edit in edits)


# ---------------------------------------------------------------------------------------------------- valid beginnings

ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "conv-net": ({"channels": 1, "classes": 2, "image_size": 8, "widths": [2]}, (1, 8, 8)),
    "slim-resnet18": ({"channels": 1, "classes": 2, "width": 1}, (1, 8, 8)),
    "lenet5": ({"channels": 1, "classes": 2, "image_size": 16}, (1, 16, 16)),
    "mobilenet-v2": ({"classes": 2}, (3, 32, 32)),
    "normalized": ({"module": models.build("conv-net", channels=1, classes=2, image_size=8, widths=[2])}, (1, 8, 8)),
}
"""Experts' architectures, and their images."""
QUICK = exml.Strategy(
    generator=GaussianNoise(),
    combiner=exml.combiners.ByClass(),
    buffer=exml.buffers.Cumulative(12),
    loss=exml.losses.Distillation(cross_entropy=1.0),
    training=Training(iterations=6, batch_size=4, learning_rate=0.01),
    normalizer=exml.normalizers.CenterLogits(),
)
SLOW = attrs.evolve(
    QUICK,
    generator=ModelInversion(iterations=3, learning_rate=0.1, batch_size=4),
    prior=exml.priors.Sum((exml.priors.L2Norm(1e-3), exml.priors.BatchNormStatistics(0.1))),
    augmentation=exml.augmentation.Augmentation(shift=1),
)
SWEEP = {"scenarios": ["tiny-nc"], "strategies": ["exml"], "seeds": [0, 1], "fields": {"training.iterations": [5, 9]}}
Files = dict[str, bytes]


@scenarios.register("tiny-nc")
def tiny(seed: int, split: scenarios.Split) -> scenarios.Scenario:
    """A scenario that a case of a sweep has the time to load."""
    return make_tiny("tiny-nc", seed, split)


def read_files(folder: Path) -> Files:
    """The content of a folder by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_files(folder: str, files: Files) -> Path:
    """The inverse."""
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path(folder)


class World:
    """Valid files that cases mutate; made once, in the parent, which also imports everything that is imported late."""

    def __init__(self, scratch: Path) -> None:
        self.experts: dict[str, Files] = {}
        for name, (settings, shape) in ARCHITECTURES.items():
            save_expert(exml.Expert(models.build(name, **settings), (0, 1), shape, name="e"), scratch / name, "e")
            self.experts[name] = read_files(scratch / name)
        stream = scratch / "stream"
        for place, classes in enumerate([(0, 1), (2, 3), (1, 4)]):
            module = models.build("conv-net", channels=1, classes=2, image_size=8, widths=[2])
            save_expert(exml.Expert(module, classes, (1, 8, 8), mean=(0.3,), name=f"e{place}"), stream, order=place)
        self.stream = read_files(stream)
        self.run("finished", stream, scratch)
        self.goal = {name: self.finished[name] for name in ("student.json", "student.safetensors")}
        self.run("stopped", stream, scratch, stop_at=4)
        silent = run_command(stream, scratch / "warm", SLOW.to_yaml().encode())
        assert silent == 0

    finished: Files
    stopped: Files

    def run(self, name: str, stream: Path, out: Path, stop_at: int = 0) -> None:
        stop, out = runs.Stop(), out / name

        def count(event: exml.learning.events.Event, /) -> None:
            if isinstance(event, exml.learning.events.DistillationProgress) and event.experience == 2:
                if event.done == stop_at:
                    stop.ask()

        runs.run(runs.FolderExperts(stream), {"s": QUICK}, out, stop=stop, observers=[count])
        setattr(self, name, read_files(out))


# --------------------------------------------------------------------------------------------------------------- targets

WORLD: World


class Wrong(Exception):
    """A case was accepted although something is wrong with it."""


def require(ok: object, kind: str) -> None:
    """Fail unless something holds."""
    if not ok:
        raise Wrong(kind)


def check_expert(expert: exml.Expert) -> None:
    """An accepted expert gives finite logits of the right shape."""
    expert.check()
    logits = expert.logits(torch.rand(3, *expert.image_shape))
    require(logits.shape == (3, len(expert.outputs)), "accepted an expert with logits of another shape")
    require(logits.isfinite().all(), "accepted an expert whose logits are not finite")


def fuzz_card(architecture: str, edits: list[Any]) -> None:
    files = WORLD.experts[architecture]
    card, wrong = edited(json.loads(files["e.json"]), edits)
    folder = write_files("in", {**files, "e.json": card})
    found = read_card(folder / "e.json")
    require(not wrong, "accepted JSON with NaN, an infinity or a key twice")
    write_files("out", {"again.json": json.dumps(to_plain(found)).encode()})
    require(read_card("out/again.json") == found, "a card changed when it was written and read again")
    check_expert(load_expert(folder / "e.json"))
    ExpertProfile.from_folder(folder)


TENSORS = st.sampled_from(
    ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "complex64", "bool", "int64"]
)
DTYPES = st.sampled_from(
    ["F64", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "BOOL", "I64", "U8", "U64", "X", ""]
)
SIZES = st.lists(st.sampled_from([0, 1, 2, 9, -1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]), max_size=5)
WEIGHTS = (
    st.tuples(st.just("cast"), PLACES, TENSORS)
    | st.tuples(st.just("fill"), PLACES, st.sampled_from(["nan", "inf", "1e38", "0", "-1e30"]))
    | st.tuples(st.just("empty"), PLACES, SIZES)
    | st.tuples(st.just("dtype"), PLACES, DTYPES)
    | st.tuples(st.just("shape"), PLACES, SIZES)
    | st.tuples(st.sampled_from(["offsets", "overlap"]), PLACES, PLACES)
    | st.tuples(st.just("length"), st.sampled_from([0, 1, 7, 10**5, 10**8, 2**31, 2**63, 2**64 - 1]))
).map(list)


def edited_weights(data: bytes, edits: list[Any]) -> bytes:
    """The weights after edits of tensors, of the header and of bytes."""
    state = load(data)
    names = sorted(state)
    for edit in edits:
        name = names[edit[1] % len(names)] if isinstance(edit[1], int) else ""
        match edit:
            case ["cast", _, dtype]:
                state[name] = state[name].to(getattr(torch, dtype))
            case ["fill", _, value] if state[name].is_floating_point():
                state[name] = torch.full_like(state[name], float(value))
            case ["empty", _, shape] if 0 in shape and -1 not in shape and max(shape) < 2**31:
                state[name] = torch.empty(0).reshape(shape)
    data = save(state)
    size = int.from_bytes(data[:8], "little")
    header, tensors, length = json.loads(data[8 : 8 + size]), data[8 + size :], None
    for edit in edits:
        one, other = (
            header[names[place % len(names)]] if isinstance(place, int) else {} for place in (edit[1], edit[-1])
        )
        match edit:
            case ["dtype" | "shape" as key, _, value]:
                one[key] = value
            case ["offsets", _, _]:
                one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
            case ["overlap", _, _]:
                one["data_offsets"] = other["data_offsets"]
            case ["length", value]:
                length = value
    text, _ = edited(header, [edit for edit in edits if edit[0] in TREE])
    data = (len(text) if length is None else length).to_bytes(8, "little") + text + tensors
    for edit in edits:
        data = edit_bytes(data, edit)
    return data


def fuzz_weights(architecture: str, edits: list[Any]) -> None:
    files = WORLD.experts[architecture]
    card = json.loads(files["e.json"]) | {"sha256": None}
    weights = edited_weights(files["e.safetensors"], edits)
    folder = write_files("in", {"e.json": json.dumps(card).encode(), "e.safetensors": weights})
    with contextlib.suppress(ExmlError):  # another answer than load_expert's is allowed, but not another error
        ExpertProfile.from_folder(folder)
    check_expert(load_expert(folder / "e.json"))


def fuzz_strategy(form: str, edits: list[Any], suffix: str) -> None:
    text, wrong = edited(SLOW.to_dict(), edits, form)
    write_files("in", {f"s{suffix}": text})
    strategy = exml.Strategy.load(Path("in", f"s{suffix}"))
    require(not (wrong and suffix == ".json"), "accepted JSON with NaN, an infinity or a key twice")
    require(exml.Strategy.from_yaml(strategy.to_yaml()) == strategy, "a strategy changed on its way through YAML")
    require(exml.Strategy.from_dict(strategy.to_dict()) == strategy, "a strategy changed on its way through a dict")
    repr(strategy), hash(strategy)
    command(run_command(write_files("in/experts", WORLD.stream), Path("out/run"), strategy.to_yaml().encode()))


def run_command(stream: Path, out: Path, strategy: bytes | None, *options: str) -> int:
    """``exml run`` over a folder of experts, stopped by SIGTERM after half the time that a case has."""
    files = {} if strategy is None else {"s.yaml": strategy}
    given = ["--strategy", str(write_files(f"{out}.in", files) / "s.yaml")] if files else []
    ended = threading.Event()

    def stop() -> None:
        if not ended.wait(SECONDS / 2):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    code = exml.cli.main(["run", "--stream", str(stream), "--out", str(out), "--quiet", *given, *options])
    ended.set()
    if code == 0:
        check_expert(load_expert(out / "student.json"))
    return code


def fuzz_student(form: str, edits: list[Any], text: str, classes: int | None) -> None:
    stream = write_files("in/experts", WORLD.stream)
    plain = {"name": "conv-net", "settings": ARCHITECTURES["conv-net"][0] | {"classes": 5}}
    student = text if form == "text" else str(write_files("in", {"m.yaml": edited(plain, edits, form)[0]}) / "m.yaml")
    options = [f"--student={student}"] + ([] if classes is None else [f"--classes={classes}"])
    command(run_command(stream, Path("out/run"), QUICK.to_yaml().encode(), *options))


def command(code: int) -> None:
    """The outcome of a command: its one message, like an error."""
    require(code in (0, 2, 130), f"exit code {code}")
    sys.stderr.flush()
    messages = Path("stderr").read_text(encoding="utf-8", errors="replace").splitlines()
    require(len(messages) == (code != 0), f"{len(messages)} lines on stderr with exit code {code}")
    if code == 2:
        raise ExmlError(expected=messages[0], got="", remedy="")


def fuzz_sweep(form: str, edits: list[Any]) -> None:
    text, _ = edited(SWEEP, edits, form)
    write_files("in", {"w.yaml": text})
    sweep = sweeps.Sweep.load("in/w.yaml")
    sweep.save(Path("out", "again.yaml"))
    require(sweeps.Sweep.load("out/again.yaml") == sweep, "a sweep changed when it was saved and loaded")
    require(sweeps.plan(sweep, Path("out", "sweep")).runs, "a plan without runs")


def fuzz_checkpoint(base: str, file: int, edits: list[Any]) -> None:
    files: Files = dict(getattr(WORLD, base))
    name = sorted(files)[file % len(files)]
    files[name], _ = edit_file(name, files[name], edits)
    folder = write_files("out", files)
    runs.run(runs.FolderExperts(write_files("in", WORLD.stream)), {"s": QUICK}, folder, resume=True)
    got = {name: (folder / name).read_bytes() for name in WORLD.goal}
    exact = all(edit[0] not in TREE for edit in edits)
    require(not exact or got == WORLD.goal, f"resumed to another student after a change of {Path(name).name}")
    check_expert(load_expert(folder / "student.json"))


def edit_file(name: str, data: bytes, edits: list[Any]) -> tuple[bytes, bool]:
    """Edit JSON and the header of tensors as documents, everything else as bytes."""
    if name.endswith(".json"):
        return edited(json.loads(data), edits)
    if name.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        record = header.get("__metadata__", {}).get("record")
        if record:
            header["__metadata__"]["record"] = edited(json.loads(record), edits)[0].decode("utf-8", "replace")
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + size :] if record else data
    for edit in edits:
        data = edit_bytes(data, edit)
    return data, False


NAMES = [
    b"e 9",
    b"e\n9",
    b"\xff\xfe",
    b"\x1b[31m",
    "\u202eexe".encode(),
    b"-h",
    b"$\\foo$",
    b"a:b",
    b"x" * 244,
    b"e9.json",
    b"[bold]",
    b"9" * 99,
]
IGNORED = [b".e9.json", b"._e0.safetensors", b".DS_Store", b"Thumbs.db", b"notes.txt", b".e0.json.1.part"]
KINDS = [
    "fifo",
    "socket",
    "folder",
    "loop",
    "zero",
    "outside",
    "dangling",
    "missing",
    "empty",
    "sparse",
    "growing",
    "inside",
]
FOLDERS = (
    st.tuples(st.just("kind"), st.integers(0, 5), st.sampled_from(KINDS))
    | st.tuples(st.just("name"), st.integers(0, 2), st.sampled_from([name.hex() for name in NAMES]))
    | st.tuples(st.just("extra"), st.sampled_from([name.hex() for name in IGNORED]))
    | st.tuples(st.just("card"), st.integers(0, 2), tree_edits() | BYTE_EDITS)
).map(list)


def edit_folder(folder: Path, edits: list[Any]) -> set[str]:
    """Apply edits to a folder of experts; returns the experts that are still sound."""
    sound = {f"e{number}" for number in range(3)}
    for edit in edits:
        if edit[0] == "extra":
            Path(os.fsdecode(os.fsencode(folder) + b"/" + bytes.fromhex(edit[1]))).write_bytes(b"not an expert")
            continue
        stem = f"e{edit[1] % 3}"
        pair = [folder / f"{stem}{end}" for end in (".json", ".safetensors")]
        if not all(path.is_file() and not path.is_symlink() for path in pair):
            continue  # an earlier edit changed it
        if edit[0] == "name":
            name = os.fsdecode(bytes.fromhex(edit[2]))
            sound = sound - {stem} | {name}
            for path in pair:
                path.rename(folder / f"{name}{path.suffix}")
        elif edit[0] == "card":
            sound.discard(stem)
            pair[0].write_bytes(edited(json.loads(pair[0].read_bytes()), [edit[2]])[0])
        elif edit[2] != "inside":
            sound.discard(stem)
            put(edit[2], pair[edit[1] // 3])
    return sound


def put(kind: str, path: Path) -> None:
    """Replace a file by something that is not a complete file of this folder."""
    data = path.read_bytes()
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            here = os.open(path.parent, os.O_RDONLY)
            socket.socket(socket.AF_UNIX).bind(f"/proc/self/fd/{here}/{path.name}")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path.name)
        case "zero":
            path.symlink_to("/dev/zero")
        case "outside":
            write_files("outside", {path.name: data})
            path.symlink_to(Path("outside", path.name).resolve())
        case "dangling":
            path.symlink_to("nowhere")
        case "empty":
            path.touch()
        case "sparse":
            path.write_bytes(data)
            os.truncate(path, 10**11)
        case "growing":
            path.write_bytes(data[:-9])
            threading.Thread(target=grow, args=(path,), daemon=True).start()


def grow(path: Path) -> None:
    """Append to a file until it is large."""
    with path.open("ab", buffering=0) as file:
        for _ in range(3_000):
            file.write(bytes(9))
            time.sleep(0.001)


def fuzz_folder(edits: list[Any], how: str) -> None:
    folder = write_files("in", WORLD.stream)
    sound = edit_folder(folder, edits)
    if how == "follow":
        learned = follow(folder, len(sound))
        require(sound <= learned, "a followed folder left out a sound expert")
        return
    try:
        if how == "stream":
            for expert in ExpertStream.from_folder(folder):
                check_expert(expert)
        elif how == "profile":
            ExpertProfile.from_folder(folder)
        else:
            command(run_command(folder, Path("out/run"), QUICK.to_yaml().encode()))
    except ExmlError:
        require(len(sound) < 3, "refused a folder of sound experts")
        raise
    require(not any(path.is_symlink() for path in folder.iterdir()), "followed a link")


def follow(folder: Path, sound: int) -> set[str]:
    """Follow a folder until its sound experts are learned and a while later; returns the names of those learned."""
    stop, deadline = runs.Stop(), time.monotonic() + SECONDS / 2

    def observe(event: exml.learning.events.Event, /) -> None:
        if isinstance(event, exml.learning.events.ExpertRefused):
            check_message(event.reason)

    def end() -> None:
        log = Path("out/run/stream.jsonl")
        while time.monotonic() < deadline - 2 or (
            time.monotonic() < deadline and (not log.exists() or log.read_text().count('"learned"') < sound)
        ):
            time.sleep(0.05)
        stop.ask()

    threading.Thread(target=end, daemon=True).start()
    source = runs.FolderExperts(folder, follow=True, poll=0.02)
    runs.run(source, {"s": QUICK}, "out/run", stop=stop, observers=[observe])
    log = Path("out/run/stream.jsonl")
    lines = [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []
    return {line["file"] for line in lines if line["event"] == "begun"}


def fuzz_names(name: str, where: str) -> None:
    name = os.fsdecode(bytes.fromhex(name))
    module = models.build("conv-net", channels=1, classes=2, image_size=8, widths=[2])
    expert = exml.Expert(module, (0, 1), (1, 8, 8), name=name if where == "expert" else "e")
    card = save_expert(expert, "out/experts", name if where == "file" else None)
    require(load_expert(card).fingerprint() == expert.fingerprint(), "an expert changed when it was saved")
    stream = write_files("in" + f"/{name}" * (where == "folder"), WORLD.stream)
    _stages.save_figure = runs.save_figure  # titles hold names
    command(run_command(stream, Path("out", name if where == "out" else "run"), QUICK.to_yaml().encode()))


FORMS = st.sampled_from(["json", "block"])
ARCHITECTURE = st.sampled_from([*ARCHITECTURES])
IN_YAML = tuple(YAML_FRAGMENTS)
TARGETS: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]]]] = {
    "card": (
        fuzz_card,
        {"architecture": ARCHITECTURE, "edits": st.lists(tree_edits() | BYTE_EDITS, min_size=1, max_size=3)},
    ),
    "weights": (
        fuzz_weights,
        {"architecture": ARCHITECTURE, "edits": st.lists(WEIGHTS | tree_edits() | BYTE_EDITS, min_size=1, max_size=3)},
    ),
    "strategy": (
        fuzz_strategy,
        {
            "form": FORMS,
            "edits": st.lists(tree_edits(extra=IN_YAML) | BYTE_EDITS, min_size=1, max_size=3),
            "suffix": st.sampled_from([".yaml", ".json"]),
        },
    ),
    "student": (
        fuzz_student,
        {
            "form": FORMS | st.just("text"),
            "edits": st.lists(tree_edits(extra=IN_YAML) | BYTE_EDITS, max_size=3),
            "text": st.text(max_size=30)
            | st.sampled_from(
                [
                    "conv-net:widths=[1000000000]",
                    "lenet5:image_size=1e9",
                    "normalized",
                    "conv-net:widths=[[8]]",
                    "conv-net:widths=" + "[" * 99,
                ]
            ),
            "classes": st.none() | st.sampled_from([-1, 0, 5, 6, 10**5, 10**9, 10**30]),
        },
    ),
    "sweep": (
        fuzz_sweep,
        {"form": FORMS, "edits": st.lists(tree_edits(extra=IN_YAML) | BYTE_EDITS, min_size=1, max_size=3)},
    ),
    "checkpoint": (
        fuzz_checkpoint,
        {
            "base": st.sampled_from(["stopped", "finished"]),
            "file": st.integers(0, 20),
            "edits": st.lists(tree_edits() | BYTE_EDITS, min_size=1, max_size=2),
        },
    ),
    "folder": (
        fuzz_folder,
        {
            "edits": st.lists(FOLDERS, min_size=1, max_size=4),
            "how": st.sampled_from(["stream", "profile", "run", "follow"]),
        },
    ),
    "names": (
        fuzz_names,
        {
            "name": st.sampled_from([name.hex() for name in NAMES]) | st.binary(min_size=1, max_size=30).map(bytes.hex),
            "where": st.sampled_from(["expert", "file", "folder", "out"]),
        },
    ),
}
"""Each target and the parameters of its cases."""

# -------------------------------------------------------------------------------------------------------- one child a case


@attrs.frozen
class Outcome:
    """What became of a case: refused, accepted or failed; failures of one kind have the same ``kind``."""

    result: str
    kind: str = ""
    detail: str = ""


def check_message(message: str, lines: int = 1) -> None:
    """A message is one short line of printable characters."""
    if message.count("\n") >= lines:
        raise Wrong(f"a message of several lines {place(sys.exception())}")
    if len(message) > CHARACTERS * lines:
        raise Wrong(f"a message of more than {CHARACTERS} characters {place(sys.exception())}")
    if not message.replace("\n", " ").isprintable():
        raise Wrong(f"a message with characters that cannot be printed {place(sys.exception())}")


def place(error: BaseException | None) -> str:
    """Where in exml an error arose."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    ours = [frame for frame in frames if f"{os.sep}exml{os.sep}" in frame.filename] or frames or [None]
    return "" if ours[-1] is None else f"in {Path(ours[-1].filename).name}:{ours[-1].name}"


def examine(target: str, case: dict[str, Any]) -> Outcome:
    """Run a case in this process."""
    try:
        try:
            TARGETS[target][0](**case)
        except ExmlError as error:
            check_message(str(error), 1 + len(getattr(error, "problems", ())))
            cause: BaseException | None = error
            while cause is not None:  # without the limit, it would have taken the memory
                if isinstance(cause, MemoryError) or "alloc" in str(cause):
                    raise Wrong(f"memory {place(cause)}") from error
                cause = cause.__cause__ or cause.__context__
            return Outcome("refused", detail=str(error))
    except Wrong as wrong:
        return Outcome("failed", str(wrong), traceback.format_exc())
    except BaseException as error:
        return Outcome("failed", f"{type(error).__name__} {place(error)}", traceback.format_exc())
    return Outcome("accepted")


def run_case(target: str, case: dict[str, Any]) -> Outcome:
    """Run a case in a child with limits, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=SHM, prefix="exml-fuzz-") as folder:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _in_child(target, case, folder, write)
        os.close(write)
        ended = select.select([read], [], [], 2 * SECONDS)[0]
        with open(read, "rb") as pipe:
            answer = pipe.read() if ended else b""
        if not answer:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        here = Path(folder)
        if answer:
            outcome = Outcome(**json.loads(answer))
        elif (trace := (here / "trace").read_text()).startswith("Timeout"):
            frames = [line for line in trace.splitlines() if f"{os.sep}exml{os.sep}" in line] or [""]
            outcome = Outcome("failed", f"more than {SECONDS:g} s{frames[0].rpartition(os.sep)[2]}", trace)
        else:
            outcome = Outcome(
                "failed", f"ended with status {status}", trace + (here / "stderr").read_text(errors="replace")
            )
        if usage.ru_maxrss * 1024 > BYTES and outcome.result != "failed":
            outcome = Outcome("failed", f"took {usage.ru_maxrss // 1024} MiB", outcome.detail)
        if extra := {path.name for path in here.iterdir()} - {
            "in",
            "out",
            "out.in",
            "outside",
            "trace",
            "stderr",
            "stdout",
        }:
            extra = {name for name in extra if not name.startswith("out")}
            if extra:
                outcome = Outcome("failed", f"made files outside its folder: {sorted(map(ascii, extra))[0]}")
    return outcome


def _in_child(target: str, case: dict[str, Any], folder: str, write: int) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    faulthandler.enable(trace := open("trace", "w"))  # noqa: SIM115
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=trace)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = size + max(BYTES - resident, 300_000_000)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ran: list[str] = []
    sys.addaudithook(
        lambda event, _: ran.append(event) if event in ("os.system", "subprocess.Popen", "os.exec") else None
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        outcome = examine(target, case)
    if ran:
        outcome = Outcome("failed", f"executed {ran[0]}")
    foreign = [str(one.message) for one in warned if not issubclass(one.category, ExmlWarning)]
    if foreign and outcome.result != "failed":
        outcome = Outcome("failed", f"a warning that is not ours: {foreign[0][:60]}", "\n".join(foreign))
    with open(write, "w") as pipe:
        json.dump(attrs.asdict(outcome), pipe)
    os._exit(0)


# ----------------------------------------------------------------------------------------------------------------- hunting


class Failed(Exception):
    """Tells hypothesis that a case failed."""


def hunt(
    target: str, seed: int, deadline: float, examples: int, found: Counter[str], kinds: dict[str, Path], save: Path
) -> None:
    """Draw cases until a time or number is over; count the outcomes and save a small example of each kind of failure."""
    while time.monotonic() < deadline and sum(found.values()) < examples:
        tried: dict[str, Outcome] = {}
        first: list[Any] = []

        @hypothesis.seed(seed + sum(found.values()))
        @hypothesis.settings(
            max_examples=min(200, examples - sum(found.values())), deadline=None, database=None, report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        )  # fmt: skip
        @hypothesis.given(**TARGETS[target][1])
        def probe(**case: Any) -> None:
            key = json.dumps(case)
            if key not in tried:
                if time.monotonic() > (first[1] + SHRINKING if first else deadline):
                    return
                tried[key] = run_case(target, case)
                if tried[key].kind.startswith("more than"):  # a busy machine is not a failure
                    tried[key] = run_case(target, case)
                if not first:
                    found[tried[key].result] += 1
            outcome = tried[key]
            if outcome.result == "failed" and outcome.kind not in kinds and (not first or outcome.kind == first[0]):
                if not first:
                    first.extend((outcome.kind, time.monotonic()))
                best.update(target=target, case=case, kind=outcome.kind, detail=outcome.detail)
                raise Failed(outcome.kind)

        best: dict[str, Any] = {}
        try:
            probe()
        except Failed:
            save.mkdir(parents=True, exist_ok=True)
            kinds[best["kind"]] = path = save / f"{target}-{len(kinds)}.json"
            path.write_text(json.dumps(best, indent=1))
            print(f"  {target}: {best['kind']}: {path}", flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="in total")
    parser.add_argument("--examples", type=int, default=10**9, help="per target, at most")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--save", type=Path, default=Path(tempfile.gettempdir(), "exml-fuzz"), help="folder of failures"
    )
    parser.add_argument("--replay", type=Path, help="a saved failure")
    given = parser.parse_args()
    global WORLD
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _stages.save_figure = lambda _figure, path: Path(path).touch()
    with tempfile.TemporaryDirectory(dir=SHM, prefix="exml-fuzz-") as scratch:
        WORLD = World(Path(scratch))
        if given.replay is not None:
            saved = json.loads(given.replay.read_text())
            outcome = run_case(saved["target"], saved["case"])
            print(json.dumps(saved["case"])[:2_000], outcome.detail, outcome.result, outcome.kind, sep="\n")
            return outcome.result == "failed"
        targets, failures = given.target or list(TARGETS), 0
        for target in targets:
            found, kinds = Counter[str](), dict[str, Path]()
            deadline = time.monotonic() + 60 * given.minutes / len(targets)
            hunt(target, given.seed, deadline, given.examples, found, kinds, given.save)
            failures += len(kinds)
            counts = ", ".join(f"{found[result]} {result}" for result in ("refused", "accepted", "failed"))
            print(f"{target}: {sum(found.values())} cases, {counts}, {len(kinds)} kinds of failure", flush=True)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
