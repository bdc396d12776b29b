"""The device and the environment of a run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import attrs
import torch

from exml.core.errors import SettingError
from exml.core.execution import EAGER, Execution
from exml.core.ranks import ALONE, Ranks
from exml.core.registry import component
from exml.core.validators import in_range

PACKAGES = ("exml", "torch", "torchvision", "kornia", "numpy", "scikit-learn")
"""Packages that the numbers of a run depend on."""


@component
@attrs.frozen(kw_only=True)
class Environment:
    """Where a run was executed.

    Args:
        versions: of Python, of exml and of the packages that the numbers depend on.
        device: as torch names it.
        hardware: processor, cores, vector instructions, memory, and the accelerator if one was used.
        threads: of torch on the CPU.
        compile: see :class:`exml.engine.Execution`.
        precision: see :class:`exml.engine.Execution`.
        ranks: number of processes that worked together; ``hardware`` and ``threads`` are those of the first.
    """

    versions: Mapping[str, str]
    device: str
    hardware: str
    threads: int = attrs.field(validator=in_range(1, integer=True))
    compile: str = "never"
    precision: str = "float32"
    ranks: int = attrs.field(default=1, validator=in_range(1, integer=True))


def device_of(name: str) -> torch.device:
    """The device of a name, after a trial; ``"auto"`` is an accelerator if there is one.

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
    # Processors of one name may differ in the instructions that torch uses, and in speed by a factor of two.
    hardware = [f"{_processor()} ({cores()} cores, {torch.backends.cpu.get_cpu_capability()})"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        hardware.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    if device.type == "cuda":
        hardware.append(f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})")
    return Environment(
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        device=str(device),
        hardware=", ".join(hardware),
        threads=torch.get_num_threads(),
        compile=execution.compile,
        precision=execution.precision,
        ranks=ranks.size,
    )


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
