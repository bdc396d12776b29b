"""Our steps in every form of execution, in float32 and bfloat16, and at several mini-batch sizes.

    uv run python -u benchmarks/gpu/modes.py                                   # on a GPU
    uv run python -u benchmarks/gpu/modes.py --device cpu --scale 0.01 --out /tmp/modes_cpu.json

``never`` launches every operation by itself, ``capture`` makes the whole step one CUDA graph, ``always`` compiles the
networks as well. Times are medians over windows of steps within one run; the device is synchronized between windows
only. The forms run one after another in one process, not in turns. The profiler counts launches in a separate run,
after all timings. Every row is written at once; a script that was killed resumes with the missing rows.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch

sys.path.insert(0, str(Path(__file__).parent))
from measuring import Distillation, Inversion, Launches, Windows, arguments, median_and_quartiles, prepare, provenance

from exml.core.files import write_json
from exml.engine import Execution, ExecutionWarning

LOOPS = {"inversion": Inversion, "distillation": Distillation}
NATIVE = (
    ("inversion", "slim-resnet18", 128),
    ("inversion", "lenet5", 512),
    ("distillation", "slim-resnet18", 32),
    ("distillation", "slim-resnet18", 128),
)
"""The cases of the ratios."""
OTHER_SIZES = (
    *(("inversion", "slim-resnet18", batch) for batch in (512, 1024)),
    *(("inversion", "lenet5", batch) for batch in (128, 1024)),
    *(("distillation", "slim-resnet18", batch) for batch in (512, 1024)),
)
FORMS = ("never", "capture", "always")
PRECISIONS = ("float32", "bfloat16")
WARM_UP = 30
"""Past compilation and capture."""
NAMES = ("loop", "model", "batch", "form", "precision")


@attrs.frozen
class Row:
    """One measurement; form and precision are those of :class:`exml.engine.Execution`."""

    loop: str
    model: str
    batch: int
    form: str
    precision: str

    def run(self, device: torch.device, journal: Windows | Launches) -> list[str]:
        """Run the steps that the journal requests; returns the warnings about forms that failed."""
        torch.compiler.reset()  # code is compiled for some modules of a class only, then given up
        execution = Execution(compile=self.form, precision=self.precision)  # type: ignore[arg-type]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ExecutionWarning)
            LOOPS[self.loop](self.model, self.batch, device)(journal.steps, journal, execution)
        return sorted({str(warning.message) for warning in caught if issubclass(warning.category, ExecutionWarning)})


def rows(scale: float) -> Iterator[Row]:
    """What is measured, most valuable first; compiled only where the ratios are, since that takes long."""
    for precision in PRECISIONS:
        for form in FORMS:
            yield from (Row(loop, model, _scaled(batch, scale), form, precision) for loop, model, batch in NATIVE)
    for precision in PRECISIONS:
        for form in FORMS[:2]:
            yield from (Row(loop, model, _scaled(batch, scale), form, precision) for loop, model, batch in OTHER_SIZES)


def _scaled(batch: int, scale: float) -> int:
    return max(2, round(batch * min(1.0, scale)))


def measure(row: Row, device: torch.device, size: int, windows: int) -> dict[str, Any]:
    """Times and peak memory."""
    timed = Windows(device, WARM_UP, size, windows)
    before = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    warned = row.run(device, timed)
    found = attrs.asdict(row) | median_and_quartiles(timed.milliseconds)
    peak = round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1) if device.type == "cuda" else None
    return found | {"steps_a_window": size, "peak_mib": peak, "fell_back": warned}


def count(row: Row, device: torch.device) -> dict[str, float] | None:
    """Launches a step."""
    counted = Launches(device, WARM_UP)
    row.run(device, counted)
    return counted.a_step


def guarded(work: Any, *given: Any) -> dict[str, Any]:
    """What the work gives, or the error it ended with: one row that fails must not cost the others."""
    try:
        return work(*given) or {}
    except Exception as error:  # out of memory, a compiler that is not there
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def main() -> None:
    """Measure the rows that the file does not have yet."""
    parser = arguments(__doc__, "modes_cuda.json")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    given = parser.parse_args()
    device = prepare(given)
    size, windows = max(2, round(10 * given.scale)), 9
    found: dict[str, Any] = {**provenance(device), "warm_up": WARM_UP, "complete": False, "rows": []}
    if given.out.exists():
        earlier = json.loads(given.out.read_text(encoding="utf-8"))
        if all(earlier.get(key) == found[key] for key in ("hardware", "versions", "commit", "warm_up")):
            found["rows"] = [row for row in earlier["rows"] if "error" not in row]
    # Scaled down, some rows are the same.
    wanted = list(dict.fromkeys(row for row in rows(given.scale) if row.form in given.forms))
    done = {tuple(row[name] for name in NAMES): row for row in found["rows"]}
    for row in wanted:
        key = attrs.astuple(row)
        if key not in done:
            print(*key, flush=True)
            done[key] = attrs.asdict(row) | guarded(measure, row, device, size, windows)
            found["rows"].append(done[key])
            write_json(given.out, found)
    if device.type == "cuda":  # after all times: once it has been used, the profiler may slow the process down
        for row in wanted:
            entry = done[attrs.astuple(row)]
            if "error" not in entry and "launches" not in entry:
                print("launches of", *attrs.astuple(row), flush=True)
                entry["launches"] = guarded(count, row, device)
                write_json(given.out, found)
    failed = [row for row in found["rows"] if "error" in row or "error" in row.get("launches", {})]
    write_json(given.out, found | {"complete": True})
    for row in failed:
        print("failed:", row, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
