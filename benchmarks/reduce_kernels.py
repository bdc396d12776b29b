"""Keep of a kernel benchmark what is published: the machine and one row a measurement.

uv run pytest benchmarks/kernels --benchmark-only --benchmark-json FULL.json
uv run python benchmarks/reduce_kernels.py FULL.json benchmarks/results/kernels_cpu.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAMES = ("kernel", "case", "version", "device", "dtype", "memory_format", "mode")
COUNTS = ("aten_ops", "launches", "peak_bytes")


def reduce(measured: dict[str, Any]) -> dict[str, Any]:
    """The machine and the rows of what ``--benchmark-json`` wrote; times in milliseconds, counts where known."""
    machine, commit = measured["machine_info"], measured["commit_info"]
    return {
        "machine": {
            "cpu": machine["cpu"].get("brand_raw", machine["processor"]),
            "accelerator": machine["accelerator"],
            "threads": machine["torch_threads"],
            "python": machine["python_version"],
            **machine["versions"],
            "commit": commit["id"][:7] + "+" * commit["dirty"],
        },
        "rows": [row(benchmark) for benchmark in measured["benchmarks"] if "kernel" in benchmark["extra_info"]],
    }


def row(benchmark: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and how long it took."""
    said, stats = benchmark["extra_info"], benchmark["stats"]
    times = {f"{name}_ms": round(1000 * stats[name], 4) for name in ("median", "iqr")}
    counts = {name: said[name] for name in COUNTS if said.get(name) is not None}
    return {name: said[name] for name in NAMES} | times | {"n": stats["rounds"]} | counts


def lines(reduced: dict[str, Any]) -> str:
    """JSON with one line a row, so that changes can be read."""
    rows = ",\n  ".join(json.dumps(row) for row in reduced["rows"])
    return f'{{\n "machine": {json.dumps(reduced["machine"])},\n "rows": [\n  {rows}\n ]\n}}\n'


def main() -> None:
    """Read one file and write the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("reduced", type=Path, help="where to write")
    arguments = parser.parse_args()
    reduced = reduce(json.loads(arguments.full.read_text(encoding="utf-8")))
    arguments.reduced.parent.mkdir(parents=True, exist_ok=True)
    arguments.reduced.write_text(lines(reduced), encoding="utf-8")


if __name__ == "__main__":
    main()
