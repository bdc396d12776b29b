"""A script that reads checkpoints of PyTorch in a process of its own: they may be hostile, or bombs.

``python -P _unpickle.py`` reads requests from stdin, one JSON object per line: ``{"path": FILE, "inode": NUMBER,
"folder": FOLDER, "room": BYTES, "seconds": SECONDS, "values": BOOLEAN, "chosen": KEYS}``. For each it limits itself to
ROOM more bytes of memory and to SECONDS more of the processor. It writes the tensors to ``weights.safetensors`` in the
folder, if values are requested, and then ``out.json``: ``{"tensors": {NAME: [DTYPE, SHAPE]}, "used": KEYS, "left":
KEYS}``, or ``{"fault": KIND, "detail": TEXT}``, after which it ends. It also ends after a minute without a request.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
AVERAGED = ("ema_state_dict", "model_ema", "state_dict_ema", "ema", "params_ema")
"""Names under which checkpoints hold weights, and averages of weights; the first that is there is taken."""
IDLE = 60
"""Seconds without a request after which the process ends."""
NUMPY = ("numpy.core.multiarray.", "numpy._core.multiarray.")


class Ignored:
    """Stands for what a checkpoint holds besides weights and is harmless: settings and NumPy's numbers."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


HARMLESS: list[Any] = [
    *((Ignored, name) for name in ("argparse.Namespace", "numpy.dtype", "numpy.ndarray")),
    *((Ignored, f"{room}{name}") for room in NUMPY for name in ("scalar", "_reconstruct")),
    *((Ignored, f"numpy.dtypes.{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")),
]


def limit(room: int, seconds: int) -> None:
    """Limit the memory and time that this process can still take, and the size of the files that it writes."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return
    spent = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    for kind, most in (("AS", used + room), ("CPU", spent + seconds), ("FSIZE", room), ("CORE", 0)):
        number = getattr(resource, f"RLIMIT_{kind}")
        _, hard = resource.getrlimit(number)
        resource.setrlimit(number, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def weights_of(loaded: Any, chosen: Sequence[str] = ()) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights in a checkpoint, the keys that lead to them, and those that lead to other weights.

    A KeyError lists the keys with weights if the ``chosen`` ones do not lead to any.
    """
    used, left = list[str](), list[str]()
    for place, key in enumerate(chosen):
        below = (*PLAIN, *AVERAGED, *chosen[place + 1 :])
        inner = {str(name): part for name, part in loaded.items() if holds_tensors(part, below)}
        if key not in inner:
            raise KeyError(", ".join(inner))
        used, loaded = [*used, key], inner[key]
    while isinstance(loaded, Mapping):
        inner: dict[str, Any] = {name: part for name, part in loaded.items() if holds_tensors(part)}
        named = [name for name in (*PLAIN, *AVERAGED) if name in inner]
        if not named and (len(inner) != 1 or any(isinstance(part, Tensor) for part in loaded.values())):
            break
        first, *others = named or inner
        left += [".".join((*used, other)) for other in others]
        used, loaded = [*used, first], inner[first]
    found = dict(loaded) if isinstance(loaded, Mapping) else {}
    return {str(name): part for name, part in found.items() if isinstance(part, Tensor)}, used, left


def holds_tensors(part: Any, under: Sequence[str] = PLAIN) -> bool:
    """Whether a value is a state dict, or a mapping that has one under a usual name, or under one of some keys."""
    if not isinstance(part, Mapping):
        return False
    return any(isinstance(value, Tensor) or (name in under and holds_tensors(value)) for name, value in part.items())


def read(request: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint, choose the weights and write them; returns the answer."""
    try:
        with Path(request["path"]).open("rb") as file, torch.serialization.safe_globals(HARMLESS):
            if os.fstat(file.fileno()).st_ino != request["inode"]:
                raise OSError("another file than a moment ago")
            place = "cpu" if request["values"] else "meta"
            loaded = torch.load(file, map_location=place, weights_only=True)
        try:
            weights, used, left = weights_of(loaded, request["chosen"])
        except (KeyError, AttributeError) as error:
            return {"fault": "chosen", "detail": str(error.args[0]) if isinstance(error, KeyError) else ""}
        if not weights:
            return {"fault": "weights", "detail": f"a {type(loaded).__name__} without tensors by name"}
        odd = [name for name, tensor in weights.items() if tensor.layout != torch.strided or tensor.is_quantized]
        if odd:
            return {"fault": "weights", "detail": f"a sparse or quantized {odd[0]}"}
        if request["values"]:
            ready = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
            save_file(ready, Path(request["folder"], "weights.safetensors"))
    except Exception as error:
        text = " ".join(str(error).split())
        short = isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text
        return {"fault": "memory" if short else type(error).__name__, "detail": text[:4000]}
    tensors = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in weights.items()}
    return {"tensors": tensors, "used": used, "left": left}


def serve() -> None:
    """Read one checkpoint per request, until one is at fault."""
    alarm: Any = getattr(signal, "alarm", int)  # Windows has none
    for line in sys.stdin:
        alarm(0)
        request = json.loads(line)
        limit(request["room"], request["seconds"])
        answer = read(request)
        part = Path(request["folder"], "part")
        part.write_text(json.dumps(answer), encoding="utf-8")
        part.rename(part.with_name("out.json"))
        if "fault" in answer:
            return
        alarm(IDLE)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve()
