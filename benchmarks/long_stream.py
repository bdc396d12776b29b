"""A long stream of tiny experts through ``exml learn``: memory and time per expert, and resumption after kills.

    uv run python benchmarks/long_stream.py --work runs/long_stream      # about fifteen minutes on one core

Each expert knows three of the ten handwritten digits of scikit-learn, from a few images. A process of its own learns
one student from all of them. Whenever ``stream.jsonl`` has one more expert, the script reads the peak memory of that
process since its start (VmHWM) and its current memory (VmRSS). Wall seconds per expert come from ``stream.jsonl``; CPU
seconds are those of the process, and depend less on other load. Then the same run is repeated, killed with ``kill -9``
at random moments and resumed each time, and the files of both students are compared byte for byte. The result goes to
``benchmarks/results/long_stream_cpu.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit

import exml
from exml import scenarios
from exml.buffers import Cumulative, Reservoir
from exml.combiners import ByClass
from exml.core.files import write_json
from exml.core.rng import derive_seed
from exml.experts import ExpertTraining, save_expert, train_expert
from exml.generators import ModelInversion
from exml.losses import Distillation
from exml.models import ConvNet
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics
from exml.runs.environment import environment

ROOT = Path(__file__).parents[1]
BUFFERS = {
    "cumulative": "N/i new images for expert i, as in Algorithm 1, N = 1,000",
    "reservoir": "16 new images for every expert, 500 kept",
}
TENTH = 10
"""The number of experts after which nothing more is allocated once."""


def strategy(buffer: str) -> exml.Strategy:
    """Model inversion on a tiny budget."""
    return (
        exml.StrategyBuilder()
        .generator(ModelInversion(iterations=10, learning_rate=0.1, batch_size=64))
        .priors(BatchNormStatistics(1.0))
        .normalizer(CenterLogits())
        .combiner(ByClass())
        .buffer(Cumulative(1_000) if buffer == "cumulative" else Reservoir(500, per_experience=16))
        .loss(Distillation(cross_entropy=1.0))
        .training(exml.Training(iterations=10, batch_size=32, learning_rate=0.003, optimizer="adam"))
        .build()
    )


def make_experts(folder: Path, count: int) -> None:
    """Experts with three digits each, drawn at random; existing files are kept."""
    data = scenarios.load("digits-joint").experiences[0].train
    training = ExpertTraining(epochs=2, batch_size=32, learning_rate=0.05)
    for index in range(count):
        if (folder / f"expert-{index}.json").exists():
            continue
        draws = random.Random(index)
        classes = sorted(draws.sample(range(10), 3))
        rows = [row for label in classes for row in draws.sample((data.labels == label).nonzero()[:, 0].tolist(), 20)]
        torch.manual_seed(derive_seed(0, index))
        module = ConvNet(channels=1, classes=10, image_size=8, widths=(8,))
        settings = {"mean": (0.3,), "std": (0.38,), "name": f"expert-{index}"}
        expert = train_expert(module, data[torch.tensor(rows)], training=training, seed=index, **settings)
        save_expert(expert, folder, order=index)


def command(work: Path, buffer: str, out: str, count: int) -> list[str]:
    plan, folder = work / f"{buffer}.yaml", work / f"experts-{count}"
    arguments = ["learn", folder, "--out", work / out, "--strategy", plan, "--checkpoint-every", "5"]
    return [sys.executable, "-m", "exml", *map(str, arguments), "--quiet"]


class Watched:
    """A process of ``exml learn``, and its memory after each expert."""

    def __init__(self, arguments: Sequence[str], ledger: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(arguments, env=environment, cwd=ROOT)
        self._ledger, self._read = ledger, 0
        self.rows: list[dict[str, float]] = []

    def look(self) -> None:
        """Note the process's memory if experts were learned since the last look."""
        if not self._ledger.exists():
            return
        with self._ledger.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        learned = [entry for entry in map(json.loads, lines.splitlines()) if entry["event"] == "learned"]
        if learned and self.process.poll() is None:
            memory = self._memory()
            self.rows += [{"seconds": entry["seconds"], **memory} for entry in learned]

    def _memory(self) -> dict[str, float]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines()
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmHWM", "VmRSS"))}
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
        processor = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        mib = {name: int(found[key]) / 1024 for name, key in (("peak_mib", "VmHWM"), ("held_mib", "VmRSS"))}
        return {**mib, "processor_s": processor}


def measure(work: Path, buffer: str, count: int) -> dict[str, Any]:
    """One row: memory and time of an uninterrupted run."""
    shutil.rmtree(work / buffer, ignore_errors=True)
    watched = Watched(command(work, buffer, buffer, count), work / buffer / "stream.jsonl")
    while watched.process.poll() is None:
        watched.look()
        time.sleep(0.002)
    assert watched.process.returncode == 0, watched.process.returncode
    rows = watched.rows
    assert len(rows) >= count - 1, "the process ended before its memory could be read"
    window = max(count // 10, 7)
    early, late = rows[TENTH : TENTH + window], rows[-TENTH - window : -TENTH]

    def of(part: Sequence[dict[str, float]]) -> dict[str, Any]:
        seconds = [row["seconds"] for row in part]
        quartiles = statistics.quantiles(seconds, n=4)
        return {
            "median_s": round(statistics.median(seconds), 4),
            "spread_s": [round(quartiles[0], 4), round(quartiles[2], 4)],
            "processor_s": round((part[-1]["processor_s"] - part[0]["processor_s"]) / (len(part) - 1), 4),
            "n": len(part),
        }

    places = sorted({TENTH, count // 10, count // 2, len(rows)})
    first, last = rows[TENTH - 1], rows[-1]
    found = {"early": of(early), "late": of(late)}
    return {
        "what": BUFFERS[buffer],
        **{key: {str(at): round(rows[at - 1][key], 1) for at in places} for key in ("peak_mib", "held_mib")},
        "peak_ratio": round(last["peak_mib"] / first["peak_mib"], 4),
        "seconds": found,
        "seconds_ratio": round(found["late"]["median_s"] / found["early"]["median_s"], 3),
        "processor_ratio": round(found["late"]["processor_s"] / found["early"]["processor_s"], 3),
    }


def killed(work: Path, buffer: str, count: int, kills: int, seed: int) -> dict[str, Any]:
    """The same run, killed at random moments: is its student the same?"""
    out, draws = f"{buffer}-killed", random.Random(seed)
    shutil.rmtree(work / out, ignore_errors=True)
    at: list[int] = []
    moments = sorted(draws.sample(range(1, count), kills))
    for moment in [*moments, None]:
        resume = ["--resume"] if (work / out / "run.json").exists() else []
        watched = Watched([*command(work, buffer, out, count), *resume], work / out / "stream.jsonl")
        while watched.process.poll() is None:
            watched.look()
            if moment is not None and len(watched.rows) >= moment:
                time.sleep(draws.uniform(0, 0.1))
                watched.process.send_signal(signal.SIGKILL)
                at.append(moment)
                break
            time.sleep(0.002)
        code = watched.process.wait()
        assert code == (0 if moment is None else -9), code
    names = ("model.safetensors", "config.json")
    same = all((work / out / name).read_bytes() == (work / buffer / name).read_bytes() for name in names)
    return {"kills": len(at), "after_experts": at, "same_student": same}


def main() -> None:
    """Make the experts, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/long_stream"), help="a folder for experts and runs")
    parser.add_argument("--experts", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "long_stream_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work, count = arguments.work.resolve(), arguments.experts
    make_experts(work / f"experts-{count}", count)
    rows: dict[str, Any] = {}
    for buffer in BUFFERS:
        strategy(buffer).save(work / f"{buffer}.yaml")
        rows[buffer] = measure(work, buffer, count)
        print(json.dumps({buffer: rows[buffer]}), flush=True)
    rows["reservoir"] |= killed(work, "reservoir", count, arguments.kills, seed=0)
    found = {**attrs.asdict(environment(torch.device("cpu"))), "commit": commit(), "experts": count, "rows": rows}
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
