"""Hostile values, and mutations of valid files, for the fuzz."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load, save

NUMBERS = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "9",
    "2.5",
    "-0.0",
    "1e-320",
    "3.4e38",
    "1e30",
    "1e308",
    "9223372036854775808",
]
NUMBERS += ["100", "30000", "1000000", "1000000000", "2147483648"]
NUMBERS += ["9" * 30, "-" + "9" * 400, "9" * 5_000]
STRINGS = ["", "a", "\0", "\n", "\x1b[31mred", "\u202egnp", "e" + "\u0301" * 2_000, "../../x", "/dev/zero", "{}", "[b]"]
FORBIDDEN = ["1e999", "-1e999", "NaN", "Infinity", "{]"]
"""What no JSON reader may accept, wherever it is."""
LARGE = {
    "@10 MB": json.dumps("x" * 10_000_000),
    "@million": "[" + "0, " * 1_000_000 + "0]",
    "@deep list": "[" * 100_000 + "]" * 100_000,
    "@deep mapping": '{"a": ' * 100_000 + "1" + "}" * 100_000,
    "@many keys": json.dumps({f"k{i}": i for i in range(100_000)}),
    "@aliases": "[&a0 [x, x], " + ", ".join(f"&a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 12)) + "]",
}
"""Values that a saved case holds by name."""
SMALL = [*NUMBERS, *map(json.dumps, STRINGS), *FORBIDDEN, '"\\ud800"', "[]", "{}", "[[1], [2]]"]
YAML = """!!python/object/apply:os.system ["touch CANARY"]
!!python/object/new:os.system [touch CANARY]
!!python/module:this
!unknown x
&r [*r]
*nowhere
{<<: [{a: 1}], b: 2}
!!binary "AAAA"
!!set {a, b}
2026-01-01
2026-99-99
190:20:30
.inf
.nan
!!int x
!!float x
{? [a, b] : c}
{{a: 1}: 2}""".splitlines()
YAML += ["\n---\n", "\n%TAG ! tag:x,2000:\n", "\n\t- a"]

PLACES, ROOT = st.integers(0, 999), 999
TREE = ("set", "number", "rename", "repeat", "drop")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PLAIN = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=3)


def tree_edits(*, in_yaml: bool = False) -> st.SearchStrategy[list[Any]]:
    """Edits of a document: replace a value or a number, rename, repeat or drop a key."""
    values = st.sampled_from([*SMALL, *LARGE, *(YAML if in_yaml else ())]) | PLAIN.map(json.dumps)
    changes = st.tuples(st.sampled_from(["set", "set", "rename", "repeat"]), PLACES, values)
    numbers = st.tuples(st.just("number"), PLACES, st.sampled_from(NUMBERS))
    return (numbers | changes | st.tuples(st.just("drop"), PLACES)).map(list)


BYTES = (
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7))
    | st.tuples(st.just("cut"), st.integers(0, 10**6))
    | st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=9).map(bytes.hex))
    | st.tuples(st.just("line"), st.sampled_from(["drop", "repeat", "indent", "swap"]), PLACES)
    | st.tuples(st.just("whole"), st.sampled_from(["empty", "zeros", "pickle", "null", "bom", "utf-16"]))
).map(list)
"""Edits of bytes; places are in millionths."""


class _Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch CANARY",)


def edit_bytes(data: bytes, edit: list[Any]) -> bytes:
    """Apply one of BYTES; another edit changes nothing."""
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
            one, other = lines[place % len(lines)], lines[place % len(lines) - 1]
            lines[place % len(lines)] = {"drop": b"", "repeat": one + one, "indent": b"  " + one, "swap": other}[what]
            return b"".join(lines)
        case ["whole", what]:
            whole = {"empty": b"", "zeros": bytes(len(data)), "pickle": pickle.dumps(_Pickled()), "null": b"null"}
            whole |= {"bom": b"\xef\xbb\xbf" + data, "utf-16": data.decode("latin1").encode("utf-16")}
            return whole[what]
    return data


class Document:
    """JSON as text that can hold what Python's objects cannot: any text as a value, a key twice."""

    def __init__(self, plain: Any) -> None:
        self._root = self._node(plain)
        self.wrong = False
        """Whether no JSON reader may accept it."""

    def _node(self, plain: Any) -> Any:
        if isinstance(plain, dict):
            return ("{}", [[json.dumps(key), self._node(value)] for key, value in plain.items()])
        return ("[]", [["", self._node(value)] for value in plain]) if isinstance(plain, list) else json.dumps(plain)

    def _items(self, node: Any) -> Iterator[tuple[list[Any], list[Any]]]:
        """All items, each with the list that holds it."""
        for item in node[1] if isinstance(node, tuple) else ():
            yield node[1], item
            yield from self._items(item[1])

    def edit(self, edit: list[Any]) -> None:
        """Apply one of :func:`tree_edits`."""
        what, place, value = edit[0], edit[1], LARGE.get(edit[-1], edit[-1])
        items = list(self._items(self._root))
        if what == "number":
            items = [(siblings, item) for siblings, item in items if str(item[1])[-1:].isdigit()]
        elif what != "set":
            items = [(siblings, item) for siblings, item in items if item[0]]
        if not items:
            return
        self.wrong |= value in FORBIDDEN or what == "repeat"
        siblings, item = items[place % len(items)]
        if what == "set" and place == ROOT:
            self._root = value
        elif what in ("set", "number"):
            item[1] = value
        elif what == "rename":
            item[0] = value
        elif what == "repeat":
            siblings.append([item[0], value])
        else:
            siblings.remove(item)

    def text(self) -> str:
        """The document as text."""

        def dump(node: Any) -> str:
            if isinstance(node, str):
                return node
            (left, right), items = node
            return left + ", ".join(f"{key}: {dump(value)}" if key else dump(value) for key, value in items) + right

        return dump(self._root)


def edited(plain: Any, edits: list[Any], form: str = "json") -> tuple[bytes, bool]:
    """A document after edits of its tree, then of its bytes; and whether no JSON reader may accept it."""
    document = Document(plain)
    for edit in edits:
        if edit[0] in TREE and form == "json":
            document.edit(edit)
    text = document.text() if form == "json" else yaml.safe_dump(plain, sort_keys=False)
    data = text.encode("utf-8", "surrogatepass")
    for edit in edits:
        data = edit_bytes(data, edit)
    return data, document.wrong and all(edit[0] in TREE[:4] for edit in edits) and len(edits) == 1


_TYPES = ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "complex64", "bool", "int64"]
_DTYPES = ["F64", "F16", "BF16", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "BOOL", "I64", "U8", "U64", "X"]
SIZES = st.lists(st.sampled_from([0, 1, 2, 9, -1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30]), max_size=5)
WEIGHTS = (
    st.tuples(st.just("cast"), PLACES, st.sampled_from(_TYPES))
    | st.tuples(st.just("fill"), PLACES, st.sampled_from(["nan", "inf", "1e38", "0", "-1e30"]))
    | st.tuples(st.sampled_from(["empty", "shape"]), PLACES, SIZES)
    | st.tuples(st.just("dtype"), PLACES, st.sampled_from(_DTYPES))
    | st.tuples(st.sampled_from(["offsets", "overlap"]), PLACES, PLACES)
    | st.tuples(st.just("length"), st.sampled_from([0, 1, 7, 10**5, 10**8, 2**31, 2**63, 2**64 - 1]))
).map(list)
"""Edits of the tensors and the header of a safetensors file."""


def edited_weights(data: bytes, edits: list[Any]) -> bytes:
    """A safetensors file after edits of its tensors, then of its header, then of its bytes."""
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
    header, tensors = split_weights(save(state))
    length = None
    for edit in edits:
        ends = (names[place % len(names)] if isinstance(place, int) else names[0] for place in (edit[1], edit[-1]))
        one, other = map(header.get, ends)
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
    data = join_weights(text, tensors, length)
    for edit in edits:
        data = edit_bytes(data, edit)
    return data


def split_weights(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join_weights(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    """The inverse of :func:`split_weights`; a length replaces that of the header."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + tensors


_SEAL = re.compile(rb'("sha256": ")[0-9a-f]{64}("\n}\n)\Z')


def forged(files: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    """The files with another one of this name, and with its checksum wherever that of the old one is."""
    if _SEAL.search(data):
        text = data[: _SEAL.search(data).start(0)] + b'"sha256": "'
        data = text + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'
    before, after = (hashlib.sha256(content).hexdigest() for content in (files[name], data))
    files = {key.replace(before[:16], after[:16]): content for key, content in {**files, name: data}.items()}
    for other in [key for key, content in files.items() if key.endswith(".json") and before.encode() in content]:
        text = files[other].replace(before.encode(), after.encode())
        files = forged(files, other, text.replace(before[:16].encode(), after[:16].encode()))
    return files


def edited_record(data: bytes, edits: list[Any]) -> bytes:
    """A record with a checksum after edits of its tree."""
    plain = json.loads(data)
    plain.pop("sha256", None)
    text = edited(plain, [edit for edit in edits if edit[0] in TREE])[0]
    return text[:-1] + b', "sha256": "' + b"0" * 64 + b'"\n}\n'


NAMES = [b"e 9", b"e\n9", b"\xff\xfe", b"\x1b[31m", "\u202eexe".encode(), b"-h", b"$\\foo$", b"a:b", b"x" * 242]
NAMES += [b"e9.json", b"[bold]", b"9" * 99, "²".encode(), "e\u0301".encode(), b"CON", b"~", b"%s{}"]
IGNORED = [".e9.json", "._e0.safetensors", ".DS_Store", "Thumbs.db", "notes.txt", ".e0.json.1.part"]
KINDS = ["fifo", "socket", "folder", "loop", "zero", "outside", "dangling", "missing", "empty", "sparse", "growing"]
FOLDERS = (
    st.tuples(st.just("kind"), st.integers(0, 5), st.sampled_from(KINDS))
    | st.tuples(st.just("name"), st.integers(0, 2), st.sampled_from([name.hex() for name in NAMES]))
    | st.tuples(st.just("extra"), st.sampled_from(IGNORED))
    | st.tuples(st.just("card"), st.integers(0, 2), tree_edits() | BYTES)
).map(list)
"""Edits of a folder with the experts e0, e1 and e2."""


def edit_folder(folder: Path, edits: list[Any], names: Sequence[str] = ("e0", "e1", "e2")) -> set[str]:
    """Apply edits; returns the names of the experts that are still sound."""
    sound, left = set(names), set(names)
    for what, number, *value in edits:
        if what == "extra":
            (folder / number).write_bytes(b"not an expert")
            continue
        name = names[number % len(names)]
        pair = [folder / f"{name}{end}" for end in (".json", ".safetensors")]
        if name not in left:
            continue
        left.remove(name)  # one edit of an expert
        sound.remove(name)
        if what == "name":
            name = os.fsdecode(bytes.fromhex(value[0]))
            sound.add(name)
            for path in pair:
                path.rename(folder / f"{name}{path.suffix}")
        elif what == "card":
            pair[0].write_bytes(edited(json.loads(pair[0].read_bytes()), value)[0])
        else:
            put(value[0], pair[number // 3])
    return sound


def put(kind: str, path: Path) -> None:
    """Replace a file by something that is not a complete file of this folder."""
    data = path.read_bytes()
    path.unlink()
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path.name)
        case "zero":
            path.symlink_to("/dev/zero")
        case "outside":
            Path("outside").mkdir(exist_ok=True)
            Path("outside", path.name).write_bytes(data)
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
            threading.Thread(target=_grow, args=(path,), daemon=True).start()


def _grow(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for _ in range(3_000):
            file.write(bytes(9))
            time.sleep(0.001)
