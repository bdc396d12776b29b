"""Checkpoints of the training of an expert."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from exml.core.expert import Expert
from exml.core.files import write_tensors
from exml.core.samples import Samples

PERIOD = 10.0
"""Seconds of training between two checkpoints."""


class TrainingCheckpoint:
    """A file with the weights, the optimizer's momentum and the number of steps; written atomically."""

    def __init__(self, path: Path, training: object, expert: Expert, samples: Samples, seed: int) -> None:
        self._path, self._saved = path, time.monotonic()
        # A checkpoint of another training has another key and is ignored.
        key = hashlib.sha256(repr((training, seed, expert.image_shape, expert.mean, expert.std)).encode())
        key.update(expert.fingerprint().encode())
        for column in (samples.images, samples.labels):
            key.update(column.cpu().contiguous().numpy().tobytes())
        self._key = key.hexdigest()

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore module and optimizer; returns the number of steps that were saved."""
        try:
            with safe_open(self._path, "pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            metadata, state = {}, {}
        if metadata.get("key") != self._key:
            return 0
        module.load_state_dict({name.removeprefix("module."): state[name] for name in state if name[:7] == "module."})
        for name, parameter in module.named_parameters():
            if f"momentum.{name}" in state:
                momentum = torch.empty_like(parameter).copy_(state[f"momentum.{name}"])
                optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
        return int(metadata["steps"])

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._saved + PERIOD

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        state: dict[str, Any] = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            if (momentum := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
                state[f"momentum.{name}"] = momentum
        write_tensors(self._path, state, {"key": self._key, "steps": str(steps)})
        self._saved = time.monotonic()
