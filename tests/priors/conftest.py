from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Compile a function in one piece; the compiler cannot trace the shape checks that these tests run under."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.compiler.reset()
    return lambda function: torch.compile(function, fullgraph=True, backend="aot_eager")
