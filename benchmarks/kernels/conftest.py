"""Settings of all kernel benchmarks."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TF32, cuDNN's convolutions would round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
