"""What a step of distillation is made on: fresh mini-batches, or a bank of views whose targets are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import torch

from exml._rng import derive_seed
from exml._types import Augmentation, Images, Labels
from exml.samples import Samples
from exml.targets import Target

Ask: TypeAlias = Callable[[Samples], Target]
"""The combined target of the teachers for a mini-batch."""
Batches: TypeAlias = Callable[[], tuple[Images, Target, Labels]]
"""Draws the next mini-batch."""


def fresh(
    memory: Samples, batch_size: int, augmentation: Augmentation | None, ask: Ask, draws: torch.Generator
) -> Batches:
    """Augment the images and ask the teachers at every step."""

    def draw() -> tuple[Images, Target, Labels]:
        batch = _augmented(memory[_drawn(len(memory), batch_size, draws)], augmentation, draws)
        return batch.images, ask(batch), batch.labels

    return draw


def banked(
    memory: Samples,
    batch_size: int,
    augmentation: Augmentation | None,
    ask: Ask,
    draws: torch.Generator,
    *,
    views: int,
    seed: int,
) -> Batches:
    """Augment every image ``views`` times and ask the teachers about each view once, before the first step.

    The same seed makes the same bank, so that a resumed run need not have kept it.
    """
    images: list[Images] = []
    targets: list[Target] = []
    for view in range(views):
        draws.manual_seed(derive_seed(seed, "bank", view))
        for start in range(0, len(memory), _ASKED):
            part = _augmented(memory[start : start + _ASKED], augmentation, draws)
            images.append(part.images)
            targets.append(ask(part))
    bank, labels = torch.cat(images), memory.labels.repeat(views)
    columns = [torch.cat([getattr(target, field.name) for target in targets]) for field in attrs.fields(Target)]

    def draw() -> tuple[Images, Target, Labels]:
        rows = _drawn(len(bank), batch_size, draws)
        target = Target(*(column.index_select(0, rows) for column in columns))
        return bank.index_select(0, rows), target, labels.index_select(0, rows)

    return draw


_ASKED = 512
"""Images that the teachers are asked about at a time."""


def _augmented(batch: Samples, augmentation: Augmentation | None, draws: torch.Generator) -> Samples:
    return batch if augmentation is None else attrs.evolve(batch, images=augmentation(batch.images, draws))


def _drawn(length: int, size: int, draws: torch.Generator) -> Labels:
    return torch.randint(length, (size,), generator=draws, device=draws.device)
