"""What the scripts in this folder share: how a hot loop is timed and its launches counted, and where that was."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.samples import Samples
from exml.engine import EAGER, Execution, Training, invert, keep_freed_memory
from exml.generators import ModelInversion
from exml.protocols import GenerationContext
from exml.runs.environment import environment

sys.path.insert(0, str(Path(__file__).parents[1]))
import ratios
from ratios import CLASSES, AfterEveryStep, trained_like

ROOT = Path(__file__).parents[2]

CASES = {name.split()[1]: case for name, case in ratios.INVERSIONS.items()}
"""By model: its class, the shape of its mini-batch, its priors and its augmentation."""
GRAPHS = ("cudaGraphLaunch", "cuGraphLaunch")
KERNELS = ("cudaLaunchKernel", "cudaLaunchCooperativeKernel", "cuLaunchKernel", "cuLaunchCooperativeKernel")
COPIES = ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset")


def arguments(about: str | None, out: str) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the work; below 1 only to try the script")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / out, help="a file for the JSON")
    parser.add_argument("--threads", type=int, default=None, help="of torch on the CPU; default: as torch chooses")
    return parser


def prepare(given: argparse.Namespace) -> torch.device:
    """The device, after what holds for the whole process."""
    if given.threads:
        torch.set_num_threads(given.threads)
    keep_freed_memory()
    return torch.device(given.device)


def provenance(device: torch.device) -> dict[str, Any]:
    """Where this is measured, and which code."""
    found = environment(device)
    return {
        "hardware": found.hardware,
        "device": str(device),
        "threads": found.threads,
        "versions": dict(found.versions),
        "commit": commit(),
    }


def commit() -> str:
    """The current commit; ``EXML_COMMIT`` names it for a copy of the files without their history."""
    if "EXML_COMMIT" in os.environ:
        return os.environ["EXML_COMMIT"]
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def median_and_quartiles(values: list[float]) -> dict[str, Any]:
    """The published summary of a list of times or ratios."""
    quartiles = statistics.quantiles(values, n=4)
    return {
        "median": round(statistics.median(values), 4),
        "spread": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "n": len(values),
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@attrs.define
class Windows(AfterEveryStep):
    """Milliseconds per step of a hot loop, over windows of ``size`` steps; synchronizes between windows only."""

    device: torch.device
    warm_up: int
    size: int
    windows: int
    milliseconds: list[float] = attrs.field(factory=list)
    _done: int = 0
    _began: float = 0.0

    @property
    def steps(self) -> int:
        """The number of steps that the loop must run."""
        return self.warm_up + self.size * self.windows

    def __call__(self, *_: Any) -> None:
        """A step is over."""
        self._done += 1
        past = self._done - self.warm_up
        if past < 0 or past % self.size:
            return
        synchronize(self.device)
        now = time.perf_counter()
        if past:
            self.milliseconds.append(1e3 * (now - self._began) / self.size)
        self._began = time.perf_counter()


@attrs.define
class Launches(AfterEveryStep):
    """Counts with :mod:`torch.profiler` what some steps of a hot loop launch; on a CPU nothing is counted."""

    device: torch.device
    warm_up: int
    counted: int = 3
    a_step: dict[str, float] | None = None
    _done: int = 0
    _profile: Any = None

    @property
    def steps(self) -> int:
        """The number of steps that the loop must run."""
        return self.warm_up + self.counted

    def __call__(self, *_: Any) -> None:
        """A step is over."""
        self._done += 1
        if self.device.type != "cuda":
            return
        if self._done == self.warm_up:
            torch.cuda.synchronize(self.device)
            both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            self._profile = torch.profiler.profile(activities=both)
            self._profile.start()
        elif self._done == self.steps:
            torch.cuda.synchronize(self.device)
            self._profile.stop()
            self.a_step = self._count()

    def _count(self) -> dict[str, float]:
        events = list(self._profile.events())
        names = [event.name for event in events]
        found = {
            "graph_launches": sum(name.startswith(GRAPHS) for name in names),
            "kernel_launches": sum(name.startswith(KERNELS) for name in names),
            "copies_and_fills": sum(name.startswith(COPIES) for name in names),
            "ran_on_the_device": sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events),
        }
        return {name: round(count / self.counted, 2) for name, count in found.items()}


@attrs.frozen(eq=False)
class Inversion:
    """An inversion with the settings of the ratios; without an augmentation, the model's own is used."""

    model: str
    batch: int
    device: torch.device
    augmentation: Any = None
    dtype: torch.dtype = torch.float32

    def network(self) -> nn.Module:
        """The expert's module, the same one on every device."""
        torch.manual_seed(0)
        return trained_like(CASES[self.model][0]()).to(self.device, self.dtype)

    def start(self) -> torch.Tensor:
        """The images to begin with, the same ones on every device."""
        drawn = torch.randn(self.batch, *CASES[self.model][1][1:], generator=torch.Generator().manual_seed(1))
        return drawn.to(self.device, self.dtype)

    def labels(self) -> torch.Tensor:
        """The target classes of the images."""
        return torch.arange(self.batch, device=self.device) % CLASSES

    def __call__(
        self,
        steps: int,
        journal: Any,
        execution: Execution = EAGER,
        *,
        learning_rate: float = 0.1,
        seed: int = 0,
        network: nn.Module | None = None,
    ) -> torch.Tensor:
        """Some steps of :func:`exml.engine.invert`; the images that come out."""
        _, _, prior, augmentation = CASES[self.model]
        augmentation = augmentation if self.augmentation is None else self.augmentation
        return invert(
            self.network() if network is None else network,
            self.start(),
            ModelInversion(iterations=steps, learning_rate=learning_rate),
            ratios.towards_classes(self.batch, self.device),
            seed=seed,
            context=GenerationContext(prior, augmentation, journal, execution=execution),
        )


@attrs.frozen(eq=False)
class Distillation:
    """A distillation with both teachers, with the settings of the ratios; each call begins with the same student.

    Without an augmentation, that of CIFAR-10 is used.
    """

    model: str
    batch: int
    device: torch.device
    augmentation: Any = None
    dtype: torch.dtype = torch.float32

    def students(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Student, expert and previous student as they are before the first step, the same ones on every device."""
        torch.manual_seed(0)
        first, second, third = (trained_like(CASES[self.model][0]()).to(self.device, self.dtype) for _ in range(3))
        return first, second, third

    def __call__(
        self, steps: int, after_step: Any, execution: Execution = EAGER, *, learning_rate: float = 0.01, seed: int = 0
    ) -> nn.Module:
        """Some steps of :func:`exml.engine.distill`; the student that comes out."""
        images = torch.rand(2_000, *CASES[self.model][1][1:], generator=torch.Generator().manual_seed(1))
        images = images.to(self.device, self.dtype)
        memory = Samples.of(images, torch.arange(len(images), device=self.device) % CLASSES, experience=1)
        training = Training(iterations=steps, batch_size=self.batch, learning_rate=learning_rate, momentum=0.9)
        augmentation = ratios.CIFAR10 if self.augmentation is None else self.augmentation
        live = {"seed": seed, "after_step": after_step, "execution": execution}
        return ratios.our_distillation(self.students(), memory, training, augmentation, **live)
