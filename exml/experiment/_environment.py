"""What a run runs on, for its record."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from exml.engine import EAGER, Execution
from exml.report import Environment

PACKAGES = ("exml", "torch", "torchvision", "kornia", "numpy", "scikit-learn")
"""Those that the numbers of a run depend on."""


def environment(device: torch.device, execution: Execution = EAGER) -> Environment:
    """This process's, and how it executes its hot loops on a device."""
    return Environment(
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        device=str(device),
        hardware=_hardware(device),
        threads=torch.get_num_threads(),
        compile=execution.compile,
        precision=execution.precision,
    )


def _hardware(device: torch.device) -> str:
    parts = [f"{_processor()} ({_cores()} cores)"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    if device.type == "cuda":
        parts.append(f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})")
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux the platform module knows only the family
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
