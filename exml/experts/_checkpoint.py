"""Checkpoints of the training of an expert."""

from __future__ import annotations

import hashlib
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from exml.core.errors import ExmlWarning
from exml.core.expert import Expert
from exml.core.files import open_file, write_tensors
from exml.core.samples import Samples
from exml.core.shapes import State

PERIOD = 10.0
"""Seconds of training between two checkpoints."""


class TrainingCheckpoint:
    """A file with the weights, the optimizer's momentum and the number of steps; written atomically.

    A file that is damaged, or of another training, is ignored.
    """

    def __init__(self, path: Path, training: object, expert: Expert, samples: Samples, seed: int) -> None:
        self._path, self._saved = path, time.monotonic()
        key = hashlib.sha256(repr((training, seed, expert.image_shape, expert.mean, expert.std)).encode())
        key.update(expert.fingerprint().encode())
        for column in (samples.images, samples.labels):
            key.update(column.cpu().contiguous().numpy().tobytes())
        self._key = key.hexdigest()

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restore module and optimizer; returns the number of steps that were saved."""
        try:
            open_file(self._path).close()  # safetensors would wait for a pipe
            with safe_open(self._path, "pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            metadata, state = {}, {}
        steps, threads = metadata.get("steps", ""), metadata.get("threads", "")
        if metadata.get("sha256") != self._checksum(state, steps, threads):
            return 0
        if threads != str(torch.get_num_threads()):
            message = (
                f"{self._path} was written with {threads} thread(s), and torch has {torch.get_num_threads()} now: the"
                " weights will differ from those of uninterrupted training; set OMP_NUM_THREADS, or delete the file"
            )
            warnings.warn(message, ExmlWarning, stacklevel=2)
        module.load_state_dict({name.removeprefix("module."): state[name] for name in state if name[:7] == "module."})
        for name, parameter in module.named_parameters():
            if f"momentum.{name}" in state:
                momentum = torch.empty_like(parameter).copy_(state[f"momentum.{name}"])
                optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
        return int(steps)

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._saved + PERIOD

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        state: dict[str, Any] = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            if (momentum := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
                state[f"momentum.{name}"] = momentum
        about = {"steps": str(steps), "threads": str(torch.get_num_threads())}
        write_tensors(self._path, state, {**about, "sha256": self._checksum(state, *about.values())})
        self._saved = time.monotonic()

    def _checksum(self, state: State, steps: str, threads: str) -> str:
        digest = hashlib.sha256(repr((self._key, steps, threads)).encode())
        for name, tensor in sorted(state.items()):
            digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
