"""Experts as checkpoints of :func:`torch.save`: a state dict, possibly wrapped, next to a card with an architecture.

Reading them never executes code. A process of its own, with limits, does it, because a damaged or hostile file can take
any amount of memory and time. The process reads one file after the other, and is replaced after one that is at fault.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import torch

from exml.core.errors import ExpertError, warn
from exml.core.files import MEGABYTE, file_digest, open_file, read_json
from exml.core.memory import require_memory
from exml.core.shapes import State
from exml.experts.card import ExpertCard, fault
from exml.experts.entries import Entry
from exml.experts.weights import ExpertFiles, complete_by, read_weights

_SCRIPT = Path(__file__).with_name("_unpickle.py")
_IDLE = 50  # seconds; the process ends after a minute without a request
_DAMAGED = "a state dict saved by torch.save"
_lock = Lock()
_process: subprocess.Popen[bytes] | None = None
_used = 0.0


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The complete card; an architecture that it lacks is recognized by the weights, if they are of a common one."""
    return complete_by(entry, card, header)


def header(entry: Entry, card: ExpertCard, /) -> State:
    """The weights on the device ``meta``."""
    return read_checkpoint(entry.path, card.weights, values=False)


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Read the weights, after a check of the file's checksum."""
    try:
        if card.sha256 not in (None, digest := file_digest(entry.path)):
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=digest, remedy=remedy)
    except (OSError, ExpertError) as error:
        fault(entry.path, error, _DAMAGED, "get the file again")
    return ExpertFiles(entry.path, card, read_checkpoint(entry.path, card.weights, stop), name=entry.name)


def read_checkpoint(
    path: Path, chosen: str | None = None, stop: Callable[[], bool] | None = None, /, *, values: bool = True
) -> State:
    """Read the weights of a checkpoint by a process with limits.

    Args:
        path: of the file.
        chosen: the key of these weights in the checkpoint, after those that lead to it, with dots between them.
        stop: asked from time to time; reading ends with an error once it returns True.
        values: whether to read values, or only names, types and shapes: those are on the device ``meta``.
    """
    with TemporaryDirectory(prefix="exml-") as scratch:
        keys = chosen.split(".") if chosen else []
        request = {"path": os.path.realpath(path), "folder": scratch, "values": values, "chosen": keys}
        try:
            with open_file(path, contained=True) as file:
                about = os.fstat(file.fileno())
            size = about.st_size
            require_memory(2 * size * values, "the checkpoint", "load it on a machine with more memory")
            room, seconds = 4 * size + 1024 * MEGABYTE, 60 + size // (20 * MEGABYTE)
            with _lock:
                found = _answer({**request, "inode": about.st_ino, "room": room, "seconds": seconds}, stop)
            if "fault" in found:
                raise _fault(found["fault"], found["detail"], room, chosen)
        except (OSError, ValueError, ExpertError) as error:
            fault(path, error, _DAMAGED, "get the file again")
        if not values:
            return {
                name: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")), device="meta")
                for name, (kind, shape) in found["tensors"].items()
            }
        if found["left"] and not chosen:
            used, others = ".".join(found["used"]), " and ".join(found["left"])
            remedy = f"choose on the card, weights: {used} or weights: {found['left'][0]}"
            warn(f"one set of weights in {path}", f"{used}, which is loaded, and {others}", remedy)
        return read_weights(Path(scratch, "weights.safetensors"), None, stop)


def _answer(request: Mapping[str, Any], stop: Callable[[], bool] | None) -> Any:
    """What the process finds in a checkpoint; it is started if there is none."""
    global _process, _used
    if _process is None or _process.poll() is not None or time.monotonic() > _used + _IDLE:
        _end()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(_SCRIPT)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        _process = subprocess.Popen(command, 0, env=environment, stdin=pipe, stdout=null, stderr=null)
    assert _process.stdin is not None
    out, end = Path(request["folder"], "out.json"), time.monotonic() + 10 * request["seconds"]
    try:
        _process.stdin.write(json.dumps(request).encode() + b"\n")
        while not out.exists():
            if stop is not None and stop():
                raise InterruptedError("a request to stop")
            if time.monotonic() > end:
                raise TimeoutError(f"one that takes more than {10 * request['seconds']} seconds")
            if _process.poll() is not None and not out.exists():
                raise ValueError(f"a file that a process with limits cannot read: status {_process.returncode}")
            time.sleep(0.005)
        found, _used = read_json(out), time.monotonic()
    except BaseException:
        _end()
        raise
    if "fault" in found:
        _end()
    return found


@atexit.register
def _end() -> None:
    if _process is not None and _process.stdin is not None:
        if _process.poll() is None:
            _process.kill()
            _process.wait()
        _process.stdin.close()


def _fault(kind: str, detail: str, room: int, chosen: str | None) -> ExpertError:
    """The error for a checkpoint that the script refused."""
    called = re.search(r"GLOBAL (\S+)", detail)
    if called is not None:
        return ExpertError(
            expected="a checkpoint of tensors alone",
            got=f"one that needs {called[1]}, such as a pickled module, and is refused, because it can execute code",
            remedy="save module.state_dict() instead: torch.save(module.state_dict(), path)",
        )
    if kind == "memory":
        got = f"one that takes more than {room // MEGABYTE} MiB of memory"
        return ExpertError(expected=_DAMAGED, got=got, remedy="get the file again: it is damaged, or a bomb")
    if kind == "chosen":
        expected, got = f"weights {chosen!r} in the checkpoint", f"weights {detail}" if detail else "no weights by name"
        return ExpertError(expected=expected, got=got, remedy="correct weights on the card, or leave it out")
    if kind == "weights":
        return ExpertError(expected=_DAMAGED, got=detail, remedy="save module.state_dict()")
    short = re.sub(r".*WeightsUnpickler error:|Weights only load failed.*trusted source\.|Check the doc.*", "", detail)
    got = f"a damaged file, or another kind of pickle ({short.strip() or kind})"
    return ExpertError(expected=_DAMAGED, got=got, remedy="get the file again, or save it with torch.save")
