"""Atomic writing, against a real file size limit and a real kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exml.core.errors import CheckpointError, ConfigError
from exml.core.files import (
    open_file,
    read_bytes,
    read_json,
    read_tensor_header,
    read_tensors,
    read_yaml,
    write_atomically,
    write_json,
    write_tensors,
    write_text,
)

resource = pytest.importorskip("resource", reason="file size limits are POSIX")


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the operating system refuse to make any file larger than ``size`` bytes: as good as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_text_and_json_come_back(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "folder" / "a.txt", "größer\n")
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "ß"})
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == "größer\n".encode()
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"b": [1, None], "a": "ß"}
    assert list(json.loads(text)) == ["b", "a"]


def test_a_value_that_json_lacks_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_tensors_come_back_also_tied_and_strided_ones(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3)
    tensors = {
        "a": tensor,
        "tied": tensor,
        "part": tensor[:, 1],
        "turned": tensor.T,
        "mask": tensor > 2,
        "i": tensor[0, 0],
    }
    write_tensors(tmp_path / "t.safetensors", tensors, {"version": "1"})
    loaded = load_file(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert loaded[name].dtype == expected.dtype
        assert torch.equal(loaded[name], expected)


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(3)})
    with no_file_above(4096):
        with pytest.raises(CheckpointError, match="free some space"):
            write_text(tmp_path / "a.txt", "new" * 10_000)
        with pytest.raises(CheckpointError, match="free some space"):
            write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(10_000)})
    assert (tmp_path / "a.txt").read_text() == "old"
    assert torch.equal(load_file(tmp_path / "t.safetensors")["a"], torch.ones(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "t.safetensors"]


def test_a_folder_that_is_a_file_is_a_typed_error(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "file")
    with pytest.raises(CheckpointError):
        write_text(tmp_path / "a" / "b.txt", "text")


def test_any_other_failure_passes_through_and_removes_the_temporary(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", half)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    script = (
        "import pathlib, sys, time\n"
        "from exml.core.files import write_atomically\n"
        "def write(path):\n"
        "    path.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "write_atomically(pathlib.Path(sys.argv[1]), write)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a.txt")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (tmp_path / "a.txt").read_text() == "old"
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", ["y" * 250, os.fsdecode(b"\xe9\xff"), "a\nb", "-rf", "日本", "."])
def test_a_file_has_any_name_that_the_system_allows(tmp_path: Path, name: str) -> None:
    if name == ".":
        with pytest.raises(CheckpointError):
            write_text(tmp_path / name / "", "text")
        return
    write_json(tmp_path / name, {"name": name})
    assert read_json(tmp_path / name, file_names=True) == {"name": name}
    with pytest.raises(CheckpointError, match="too long"):
        write_text(tmp_path / ("y" * 256), "text")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "levels of symbolic links"),
        (lambda path: path.write_bytes(b"x" * 11), "more than 10"),
        (lambda path: None, "No such file"),
    ],
)
def test_only_regular_files_within_a_limit_are_read(tmp_path: Path, make, complaint: str) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError, match=complaint):
        read_bytes(tmp_path / "a", 10)
    if complaint != "more than 10":
        with pytest.raises(ConfigError, match=f"a strategy in .*{complaint}"):
            read_yaml(tmp_path / "a", "a strategy")


def test_a_link_out_of_its_folder_is_refused_where_that_matters(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("1")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").write_text("2")
    (folder / "out").symlink_to("../secret")
    (folder / "in").symlink_to("inner")
    (tmp_path / "linked").symlink_to("folder")
    assert read_bytes(folder / "out", 10) == b"1"
    assert read_bytes(folder / "in", 10, contained=True) == b"2"
    assert read_bytes(tmp_path / "linked" / "in", 10, contained=True) == b"2"
    with pytest.raises(OSError, match="leads out"):
        read_bytes(folder / "out", 10, contained=True)


def header(path: Path, text: object, body: bytes = b"", length: int | None = None) -> None:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    path.write_bytes((len(data) if length is None else length).to_bytes(8, "little") + data + body)


def entry(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def test_tensors_are_read_as_they_are_written(tmp_path: Path) -> None:
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e5m2)
    tensors = {str(dtype): torch.tensor([[0.0, 1.0]]).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 2)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"a": "b"})
    chunks: list[bytes] = []
    with open_file(tmp_path / "t.safetensors") as file:
        found = read_tensor_header(file)
        read = read_tensors(file, found, chunks.append)
    assert found.metadata == {"a": "b"}
    assert found.text + b"".join(chunks) == (tmp_path / "t.safetensors").read_bytes()
    assert read.keys() == found.tensors.keys() == tensors.keys()
    for name, expected in tensors.items():
        assert found.tensors[name].is_meta
        assert (read[name].dtype, read[name].shape) == (expected.dtype, expected.shape)
        assert torch.equal(read[name].double(), expected.double())


@pytest.mark.parametrize(
    ("text", "body", "length"),
    [
        (b"", b"", None),
        ({}, b"", 2**63),
        ({}, b"", 100),
        (b"[]", b"", None),
        (b"{", b"", None),
        ({"__metadata__": {"a": 1}}, b"", None),
        ({"a": 1}, b"", None),
        (entry(extra=1), bytes(8), None),
        (entry(dtype="F4"), bytes(8), None),
        (entry(dtype="F8_E8M0"), bytes(8), None),
        (entry(shape=[3]), bytes(8), None),
        (entry(shape=[-2]), bytes(8), None),
        (entry(shape=[True, 2]), bytes(8), None),
        (entry(shape=[2**62, 4, 0], data_offsets=[0, 0]), b"", None),
        (entry(shape=[2] + [1] * 20), bytes(8), None),
        (entry(data_offsets=[-8, 0]), b"", None),
        (entry(data_offsets=[8, 16]), bytes(16), None),
        (entry(), bytes(9), None),
        (entry() | {"b": entry()["a"]}, bytes(8), None),
        (json.dumps(entry())[:-1].encode() + b"," + json.dumps(entry())[1:].encode(), bytes(8), None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_that_does_not_describe_its_file(tmp_path: Path, text: object, body: bytes, length: int) -> None:
    header(tmp_path / "t", entry(), bytes(8))
    with open_file(tmp_path / "t") as file:
        assert read_tensor_header(file).tensors["a"].shape == (2,)
    header(tmp_path / "t", text, body, length)
    with open_file(tmp_path / "t") as file, pytest.raises(ValueError, match=r"."):
        read_tensor_header(file)
