"""What holds while any kernel is measured."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """All versions of a kernel shall compute the same; cuDNN's convolutions would round to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
