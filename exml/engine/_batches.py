"""What a step of distillation is made on: fresh mini-batches, or a bank of views whose targets are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs
import torch

from exml.core.ranks import ALONE, Shard
from exml.core.rng import derive_seed
from exml.core.samples import Samples, inference_batch_size
from exml.core.shapes import Images, Labels
from exml.core.targets import Target
from exml.engine._shards import augment
from exml.protocols import Augmentation

Ask: TypeAlias = Callable[[Samples], Target]
"""The combined target of the teachers for a mini-batch."""
Batches: TypeAlias = Callable[[], tuple[Images, Target, Labels]]
"""Draws the next mini-batch."""


def fresh(
    memory: Samples, shard: Shard, augmentation: Augmentation | None, ask: Ask, draws: torch.Generator
) -> Batches:
    """Augment the images and ask the teachers at every step; of a mini-batch, this rank's rows."""

    def draw() -> tuple[Images, Target, Labels]:
        batch = _augmented(memory[_drawn(len(memory), shard, draws)], augmentation, draws, shard)
        return batch.images, ask(batch), batch.labels

    return draw


@attrs.frozen(eq=False)
class Bank:
    """Augmented images whose targets are known; every rank has the whole of it."""

    images: Images
    target: Target
    labels: Labels

    def parts(self) -> Iterator[tuple[Images, Target]]:
        """All of it in order, some at a time."""
        for rows in torch.arange(len(self.images), device=self.images.device).split(
            inference_batch_size(self.images.shape[1:])
        ):
            yield self.images[rows], self._target(rows)

    def batches(self, shard: Shard, draws: torch.Generator) -> Batches:
        """Mini-batches drawn from it, with replacement; of each, this rank's rows."""

        def draw() -> tuple[Images, Target, Labels]:
            rows = _drawn(len(self.images), shard, draws)
            return self.images.index_select(0, rows), self._target(rows), self.labels.index_select(0, rows)

        return draw

    def _target(self, rows: Labels) -> Target:
        return Target(*(getattr(self.target, field.name).index_select(0, rows) for field in attrs.fields(Target)))


def fill_bank(
    memory: Samples,
    shard: Shard,
    augmentation: Augmentation | None,
    ask: Ask,
    draws: torch.Generator,
    *,
    views: int,
    seed: int,
) -> Bank:
    """Augment every image ``views`` times and ask the teachers about each view once, before the first step.

    The same seed makes the same bank, so that a resumed run need not have kept it. Every rank asks about its share.
    """
    images: list[Images] = []
    targets: list[Target] = []
    size = inference_batch_size(memory.images.shape[1:])
    for view in range(views):
        draws.manual_seed(derive_seed(seed, "bank", view))
        for start in range(0, len(memory), size):
            batch = memory[start : start + size]
            part = shard.ranks.shard(len(batch))
            whole = _augmented(batch, augmentation, draws, ALONE.shard(len(batch)))
            images.append(whole.images)
            targets.append(_collected(ask(whole[part.rows]), part) if part.own else _collected(ask(whole[:1]), part))
    columns = [torch.cat([getattr(target, field.name) for target in targets]) for field in attrs.fields(Target)]
    return Bank(torch.cat(images), Target(*columns), memory.labels.repeat(views))


def _augmented(batch: Samples, augmentation: Augmentation | None, draws: torch.Generator, shard: Shard) -> Samples:
    return attrs.evolve(batch, images=augment(augmentation, batch.images, draws, shard))


def _collected(target: Target, part: Shard) -> Target:
    """The targets of all ranks' parts; of one without rows, those that it had to ask about anyway are left out."""
    if part.ranks.alone:
        return target
    columns = (getattr(target, field.name)[: part.own] for field in attrs.fields(Target))
    # Masks travel as numbers: not every backend carries truth values.
    return Target(
        *(
            part.collect(column.to(torch.uint8)).bool() if column.dtype == torch.bool else part.collect(column)
            for column in columns
        )
    )


def _drawn(length: int, shard: Shard, draws: torch.Generator) -> Labels:
    """This rank's rows of a mini-batch that is drawn alike on every rank."""
    return torch.randint(length, (shard.total,), generator=draws, device=draws.device)[shard.rows]
