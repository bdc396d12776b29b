"""The environment that a saved benchmark records, in addition to the processor and the commit."""

from importlib.metadata import version
from typing import Any

import jaxtyping
import pytest
import torch

collect_ignore = ["paper_cells.py"]
"""The name under which the scripts import it; a second name would register its component twice."""


@pytest.hookimpl
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add versions, threads and accelerator: a time without them means nothing."""
    machine_info["versions"] = {name: version(name) for name in ("exml", "torch", "torchvision", "kornia", "numpy")}
    machine_info["torch_threads"] = torch.get_num_threads()
    machine_info["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


@pytest.fixture(autouse=True)
def _no_shape_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' checks of shapes at run time would be measured with us, and cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every round starts from the same numbers."""
    torch.manual_seed(0)
