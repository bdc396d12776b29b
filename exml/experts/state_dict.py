"""Experts as checkpoints of :func:`torch.save`: a state dict, possibly wrapped, next to a card with an architecture.

Reading them never executes code. A process of its own, with limits, does it, because a damaged or hostile file can take
any amount of memory and time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import attrs
import torch

from exml.core.errors import ExpertError, warn
from exml.core.files import MEGABYTE, file_digest, open_file, read_json
from exml.core.memory import require_memory
from exml.core.shapes import State
from exml.experts.card import ExpertCard, fault
from exml.experts.entries import Entry
from exml.experts.weights import ExpertFiles, complete_by, read_weights

_SCRIPT = Path(__file__).with_name("_unpickle.py")
_SMALL = 64 * MEGABYTE
_DAMAGED = "a state dict saved by torch.save"


def describe(entry: Entry, card: Mapping[str, Any], /) -> ExpertCard:
    """The complete card; an architecture that it lacks is recognized by the weights, if they are of a common one."""
    return complete_by(entry, card, header)


def header(entry: Entry, /) -> State:
    """The weights on the device ``meta``; the values of a large file are not read."""
    found = (_converted(entry, entry.state()) if _is_small(entry) else _convert(entry, None, values=False)).found
    return {
        name: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")), device="meta")
        for name, (kind, shape) in found["tensors"].items()
    }


def read(entry: Entry, card: ExpertCard, stop: Callable[[], bool] | None, trust: bool, /) -> ExpertFiles:
    """Read the weights from the safetensors file that they are converted to."""
    try:
        if card.sha256 not in (None, digest := file_digest(entry.path)):
            remedy = "get both files again: they do not belong together"
            raise ExpertError(expected=f"SHA-256 {card.sha256}", got=digest, remedy=remedy)
    except (OSError, ExpertError) as error:
        fault(entry.path, error, _DAMAGED, "get the file again")
    made = _converted(entry, entry.state()) if _is_small(entry) else _convert(entry, stop, values=True)
    if made.found["left"]:
        used, others = ".".join(made.found["used"]), " and ".join(made.found["left"])
        remedy = "for the others, save them in a file of their own"
        warn(f"one set of weights in {entry.path}", f"{used}, which is loaded, and {others}", remedy)
    weights = read_weights(made.folder / "weights.safetensors", None, stop)
    return ExpertFiles(entry.path, card, weights, name=entry.name)


@attrs.frozen(eq=False, slots=False)
class _Conversion:
    """What the script found, and the folder that it wrote to, which is removed with this object."""

    folder: Path
    found: dict[str, Any]

    def __attrs_post_init__(self) -> None:
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def _is_small(entry: Entry) -> bool:
    """Whether a conversion is kept: a process starts only once for the header and the weights."""
    try:
        return entry.path.stat().st_size <= _SMALL
    except OSError:
        return True


@lru_cache(maxsize=16)
def _converted(entry: Entry, _state: object) -> _Conversion:
    return _convert(entry, None, values=True)


def _convert(entry: Entry, stop: Callable[[], bool] | None, *, values: bool) -> _Conversion:
    """Run the script that reads a checkpoint."""
    made, path = _Conversion(Path(mkdtemp(prefix="exml-")), {}), entry.path
    scratch = made.folder
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
        made.found.update(read_json(scratch / "out.json"))
        if "fault" in made.found:
            raise _fault(made.found["fault"], made.found["detail"], room)
    except (OSError, ValueError, ExpertError) as error:
        fault(path, error, _DAMAGED, "get the file again")
    return made


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
            got=f"one that needs {called[1]}, such as a pickled module, and is refused, because it can execute code",
            remedy="save module.state_dict() instead: torch.save(module.state_dict(), path)",
        )
    if kind == "memory":
        got = f"one that takes more than {room // MEGABYTE} MiB of memory"
        return ExpertError(expected=_DAMAGED, got=got, remedy="get the file again: it is damaged, or a bomb")
    if kind == "weights":
        return ExpertError(expected=_DAMAGED, got=detail, remedy="save module.state_dict()")
    short = re.sub(r".*WeightsUnpickler error:|Weights only load failed.*trusted source\.|Check the doc.*", "", detail)
    got = f"a damaged file, or another kind of pickle ({short.strip() or kind})"
    return ExpertError(expected=_DAMAGED, got=got, remedy="get the file again, or save it with torch.save")
