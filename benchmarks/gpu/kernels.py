"""The kernel benchmarks on one device, one file after the other, so that what was measured is not lost with the rest.

    uv run python -u benchmarks/gpu/kernels.py --work DIR                      # on a GPU
    uv run python -u benchmarks/gpu/kernels.py --device cpu --threads 1 --out benchmarks/results/kernels_cpu.json

Runs ``pytest benchmarks/kernels``, keeps what each file measured below ``--work``, and publishes the machine and one
row per measurement. A file whose tests have passed is not run again. It needs no more of the tests' tools than pytest
and pytest-benchmark. ``--scale`` below 1 runs that share of the files.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from measuring import ROOT, arguments, commit

from exml.core.files import write_json

FOLDER = Path("benchmarks") / "kernels"
NAMES = ("kernel", "case", "version", "device", "dtype", "memory_format", "mode")
COUNTS = ("aten_ops", "launches", "peak_bytes")


def measure(file: str, device: str, threads: int | None, work: Path) -> bool:
    """Run one file, unless it was; whether its tests passed."""
    full, passed = work / f"{device}-{file}.json", work / f"{device}-{file}.passed"
    if full.exists() and passed.exists():
        return True
    partial = full.with_suffix(".part")
    command = [sys.executable, "-m", "pytest", str(FOLDER / file), "-q", "-k", device]
    # Neither the options of the tests (which need more packages) nor the conftest.py that runs the pages' examples.
    command += ["-o", "addopts=", "--import-mode=importlib", "--confcutdir=benchmarks", "-W", "default"]
    command += ["-p", "no:cacheprovider", "--benchmark-only", f"--benchmark-json={partial.resolve()}"]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if partial.exists() and partial.stat().st_size:
        partial.replace(full)
    if done.returncode == 0:
        passed.touch()
    return done.returncode == 0


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


def gather(files: list[str], device: str, work: Path) -> dict[str, Any]:
    """The machine of the first file, and the rows of all."""
    paths = [work / f"{device}-{file}.json" for file in files]
    reduced = [reduce(json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]
    if not reduced:
        return {"rows": []}
    if reduced[0]["machine"]["commit"].startswith("unversi"):  # files without their history
        reduced[0]["machine"]["commit"] = commit()
    return {"machine": reduced[0]["machine"], "rows": [row for part in reduced for row in part["rows"]]}


def main() -> None:
    """Run what has not passed yet, and gather."""
    parser = arguments(__doc__, "kernels_cuda.json")
    every = sorted(path.name for path in (ROOT / FOLDER).glob("test_*.py"))
    parser.add_argument("--files", nargs="+", default=every, choices=every)
    parser.add_argument("--work", type=Path, default=Path("runs/kernels"), help="folder for what pytest writes")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    files = given.files[: max(1, math.ceil(len(given.files) * min(1.0, given.scale)))]
    failed = []
    for number, file in enumerate(files, 1):
        print(file, flush=True)
        if not measure(file, given.device, given.threads, given.work):
            failed.append(file)
        found = gather(files, given.device, given.work)
        write_json(given.out, found | {"failed": failed, "complete": number == len(files) and not failed})
    if failed:
        print("failed:", *failed, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
