"""Random seeds derived from the run's seed and a path such as ``("distillation", experience, iteration)``.

A resumed run therefore draws the same numbers without a saved generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator as PyGenerator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for a path in a run.

    >>> from exml.core.rng import derive_seed
    >>> derive_seed(0, "generation", 1) == derive_seed(0, "generation", 2)
    False
    """
    text = "/".join(map(str, (seed, *path))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def make_generator(device: torch.device | str, seed: int, *path: int | str) -> torch.Generator:
    """A new generator on a device, seeded for a path in a run."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *path))


@contextmanager
def global_seed(seed: int, *path: int | str) -> PyGenerator[None]:
    """Seed torch's global generators for the block (dropout, third-party code), then restore them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, *path))
        yield
