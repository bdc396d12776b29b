"""The device and the environment of a run."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from exml.core.errors import SettingError
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks
from exml.runs.result import Environment

PACKAGES = ("exml", "torch", "torchvision", "kornia", "numpy", "scikit-learn")
"""Packages that the numbers of a run depend on."""


def device_of(name: str) -> torch.device:
    """The device of a name, which is tried out; ``"auto"`` is an accelerator if there is one.

    Raises:
        SettingError: torch cannot use the device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(
            expected="a device that torch can use here",
            got=f"{name!r} ({str(error).splitlines()[0]})",
            remedy="use 'cpu' or 'auto'",
        ) from error
    return device


def environment(device: torch.device, execution: Execution = EAGER, ranks: Ranks = ALONE) -> Environment:
    """The environment of this process, and how it executes the hot loops on a device."""
    return Environment(
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        device=str(device),
        hardware=_hardware(device),
        threads=torch.get_num_threads(),
        compile=execution.compile,
        precision=execution.precision,
        ranks=ranks.size,
    )


def _hardware(device: torch.device) -> str:
    parts = [f"{_processor()} ({cores()} cores)"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    if device.type == "cuda":
        parts.append(f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})")
    return ", ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # on Linux the platform module knows only the processor family
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
