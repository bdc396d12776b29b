"""Experts as checkpoints of :func:`torch.save`: a state dict, possibly wrapped, next to a card with an architecture.

Reading them never executes code. A process of its own, with limits, does it, because a damaged or hostile file can take
any amount of memory and time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
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
_DAMAGED = "a state dict saved by torch.save"


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The complete card; an architecture that it lacks is recognized by the weights, if they are of a common one."""
    return complete_by(entry, card, header)


def header(entry: Entry, /) -> State:
    """The weights on the device ``meta``; the values are not read."""
    return _header(entry, entry.state())


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Convert the weights to safetensors in a temporary folder, and read them from there."""
    try:
        if card.sha256 not in (None, digest := file_digest(entry.path)):
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=digest, remedy=remedy)
    except (OSError, ExpertError) as error:
        fault(entry.path, error, _DAMAGED, "get the file again")
    with TemporaryDirectory(prefix="exml-") as scratch:
        found = _unpickled(entry.path, Path(scratch), stop, values=True)
        if found["left"]:
            used, others = ".".join(found["used"]), " and ".join(found["left"])
            remedy = "for the others, save them in a file of their own"
            warn(f"one set of weights in {entry.path}", f"{used}, which is loaded, and {others}", remedy)
        weights = read_weights(Path(scratch) / "weights.safetensors", None, stop)
    return ExpertFiles(entry.path, card, weights, name=entry.name)


@lru_cache(maxsize=256)
def _header(entry: Entry, _state: object) -> State:
    with TemporaryDirectory(prefix="exml-") as scratch:
        found = _unpickled(entry.path, Path(scratch), None, values=False)
    return {
        name: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")), device="meta")
        for name, (kind, shape) in found["tensors"].items()
    }


def _unpickled(path: Path, scratch: Path, stop: Callable[[], bool] | None, *, values: bool) -> dict[str, Any]:
    """Run the script that reads a checkpoint; what it writes is in the folder ``scratch``."""
    try:
        with open_file(path, contained=True) as file, (scratch / "out.json").open("wb") as out:
            size = os.fstat(file.fileno()).st_size
            require_memory(2 * size * values, "the checkpoint", "load it on a machine with more memory")
            room, seconds = 4 * size + 1024 * MEGABYTE, 60 + size // (20 * MEGABYTE)
            process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(room), str(seconds), str(int(values))],
                cwd=scratch,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=file,
                stdout=out,
                stderr=subprocess.DEVNULL,
            )
            _wait(process, 10 * seconds, stop)
        if process.returncode:
            raise ValueError(f"a file that a process with limits cannot read: status {process.returncode}")
        found: dict[str, Any] = read_json(scratch / "out.json")
        if "fault" in found:
            raise _fault(found["fault"], found["detail"], room)
    except (OSError, ValueError, ExpertError) as error:
        fault(path, error, _DAMAGED, "get the file again")
    return found


def _wait(process: subprocess.Popen[bytes], seconds: float, stop: Callable[[], bool] | None) -> None:
    end = time.monotonic() + seconds
    try:
        while process.poll() is None:
            if stop is not None and stop():
                raise InterruptedError("a request to stop")
            if time.monotonic() > end:
                raise TimeoutError(f"one that takes more than {seconds} seconds")
            time.sleep(0.02)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def _fault(kind: str, detail: str, room: int) -> ExpertError:
    """The error for a checkpoint that the script refused."""
    called = re.search(r"GLOBAL (\S+)", detail)
    if called is not None:
        return ExpertError(
            expected="a checkpoint of tensors alone",
            got=f"one that needs {called[1]}, such as a pickled module; it is not loaded, because that can execute code",
            remedy="save module.state_dict() instead: torch.save(module.state_dict(), path)",
        )
    if kind == "memory":
        got = f"one that takes more than {room // MEGABYTE} MiB of memory"
        return ExpertError(expected=_DAMAGED, got=got, remedy="get the file again: it is damaged, or a bomb")
    if kind == "weights":
        return ExpertError(expected=_DAMAGED, got=detail, remedy="save module.state_dict()")
    short = re.sub(r".*WeightsUnpickler error:|Weights only load failed.*trusted source\.|Check the doc.*", "", detail)
    return ExpertError(expected=_DAMAGED, got=f"{kind}: {short.strip()}", remedy="get the file again")
