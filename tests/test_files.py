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

from exml.core.errors import CheckpointError
from exml.core.files import write_atomically, write_json, write_tensors, write_text

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
