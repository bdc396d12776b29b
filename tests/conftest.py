"""Every test has one thread, fixed seeds and no network, and real data if it is available."""

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

# A failure in the gate must be reproducible; on a developer's machine, new examples are worth more.
hypothesis.settings.register_profile("gate", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.register_profile("desk", deadline=None, max_examples=25)
hypothesis.settings.load_profile("gate" if os.environ.get("CI") else "desk")

# Only type checkers read these files, and one is faulty on purpose.
collect_ignore = ["typing/complete.py", "typing/faulty.py"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and sums do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes do not import the modules of users of earlier tests."""
    monkeypatch.setattr("exml.core.imports._IMPORTED", [])


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """A test draws the same numbers, independent of earlier tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests must not need a network."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any, /) -> None:
        if self.family == getattr(socket, "AF_UNIX", None) or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise RuntimeError(f"a test tried to connect to {address}; tests run without a network")

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def exml_data() -> Path:
    """The folder of real datasets that ``EXML_DATA`` names. Without it, the test is skipped."""
    folder = os.environ.get("EXML_DATA")
    if not folder:
        pytest.skip("real data: set EXML_DATA to a folder of datasets")
    path = Path(folder).expanduser()
    assert path.is_dir(), f"EXML_DATA names a folder that does not exist: {path}"
    return path


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Compile a function in one piece; the compiler cannot trace the shape checks that these tests run under."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.compiler.reset()
    return lambda function: torch.compile(function, fullgraph=True, backend="aot_eager")
