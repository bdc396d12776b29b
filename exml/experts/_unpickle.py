"""A script that reads a checkpoint of PyTorch in a process of its own: it may be hostile, or a bomb.

``python -P _unpickle.py ROOM SECONDS VALUES < CHECKPOINT`` limits itself to ROOM bytes of memory and to SECONDS of the
processor. It writes the tensors to ``weights.safetensors`` if VALUES is 1, and prints JSON: ``{"tensors": {NAME:
[DTYPE, SHAPE]}, "used": KEYS, "left": KEYS}``, or ``{"fault": KIND, "detail": TEXT}``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
AVERAGED = ("ema_state_dict", "model_ema", "state_dict_ema", "ema", "params_ema")
"""Names under which checkpoints hold weights, and averages of weights; the first that is there is taken."""
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
    """Limit the memory that this process can still take, its time, and the size of the files that it writes."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return
    for kind, most in (("AS", used + room), ("CPU", seconds), ("FSIZE", room), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))


def weights_of(loaded: Any) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights in a checkpoint, the keys that lead to them, and the keys next to these with other weights."""
    used, left = list[str](), list[str]()
    while isinstance(loaded, Mapping):
        inner: dict[str, Any] = {name: part for name, part in loaded.items() if holds_tensors(part)}
        named = [name for name in (*PLAIN, *AVERAGED) if name in inner]
        if not named and (len(inner) != 1 or any(isinstance(part, Tensor) for part in loaded.values())):
            break
        first, *others = named or inner
        used, left, loaded = [*used, first], left + others, inner[first]
    found = dict(loaded) if isinstance(loaded, Mapping) else {}
    return {str(name): part for name, part in found.items() if isinstance(part, Tensor)}, used, left


def holds_tensors(part: Any) -> bool:
    """Whether a value is a state dict, or a mapping that has one under a usual name."""
    if not isinstance(part, Mapping):
        return False
    return any(isinstance(value, Tensor) or (name in PLAIN and holds_tensors(value)) for name, value in part.items())


def read(values: bool) -> dict[str, Any]:
    """Read the checkpoint, choose the weights and write them; what is returned is printed."""
    try:
        with torch.serialization.safe_globals(HARMLESS), open(0, "rb", closefd=False) as file:
            loaded = torch.load(file, map_location="cpu" if values else "meta", weights_only=True)
        weights, used, left = weights_of(loaded)
        if not weights:
            return {"fault": "weights", "detail": f"a {type(loaded).__name__} without tensors by name"}
        odd = [name for name, tensor in weights.items() if tensor.layout != torch.strided or tensor.is_quantized]
        if odd:
            return {"fault": "weights", "detail": f"a sparse or quantized {odd[0]}"}
        if values:
            save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, "weights.safetensors")
    except Exception as error:
        text = " ".join(str(error).split())
        short = isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text
        return {"fault": "memory" if short else type(error).__name__, "detail": text[:4000]}
    tensors = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in weights.items()}
    return {"tensors": tensors, "used": used, "left": left}


if __name__ == "__main__":
    limit(int(sys.argv[1]), int(sys.argv[2]))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    json.dump(read(sys.argv[3] == "1"), sys.stdout)
