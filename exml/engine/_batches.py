"""The mini-batches of distillation: fresh ones, or draws from a bank of views with precomputed targets."""

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
from exml.engine._ranks import augment
from exml.protocols import Augmentation

TargetOf: TypeAlias = Callable[[Samples], Target]
"""The combined target of the teachers for a mini-batch."""
Batches: TypeAlias = Callable[[], tuple[Images, Target, Labels]]
"""Draws the next mini-batch."""


def fresh(
    memory: Samples, shard: Shard, augmentation: Augmentation | None, target_of: TargetOf, draws: torch.Generator
) -> Batches:
    """Augment the images and run the teachers at every step, on this rank's rows of each mini-batch."""

    def draw() -> tuple[Images, Target, Labels]:
        batch = _augmented(memory[_drawn(len(memory), shard, draws)], augmentation, draws, shard)
        return batch.images, target_of(batch), batch.labels

    return draw


@attrs.frozen(eq=False)
class Bank:
    """Augmented images with their targets; every rank holds all of it."""

    images: Images
    target: Target
    labels: Labels

    def parts(self) -> Iterator[tuple[Images, Target]]:
        """All images in order, in batches for inference."""
        rows_of_all = torch.arange(len(self.images), device=self.images.device)
        for rows in rows_of_all.split(inference_batch_size(self.images.shape[1:])):
            yield self.images[rows], self._target(rows)

    def batches(self, shard: Shard, draws: torch.Generator) -> Batches:
        """Mini-batches drawn with replacement; this rank's rows of each."""

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
    target_of: TargetOf,
    draws: torch.Generator,
    *,
    views: int,
    seed: int,
) -> Bank:
    """Augment every image ``views`` times and run the teachers on each view once, before the first step.

    The same seed gives the same bank, so a resumed run fills it again. The ranks share the forward passes.
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
            targets.append(_collected(target_of(whole[part.rows] if part.own else whole[:1]), part))
    columns = [torch.cat([getattr(target, field.name) for target in targets]) for field in attrs.fields(Target)]
    return Bank(torch.cat(images), Target(*columns), memory.labels.repeat(views))


def _augmented(batch: Samples, augmentation: Augmentation | None, draws: torch.Generator, shard: Shard) -> Samples:
    return attrs.evolve(batch, images=augment(augmentation, batch.images, draws, shard))


def _collected(target: Target, part: Shard) -> Target:
    """The targets of all ranks' parts, without the placeholder row of a rank that has none."""
    if part.ranks.alone:
        return target
    columns = (getattr(target, field.name)[: part.own] for field in attrs.fields(Target))
    # Not every backend exchanges booleans.
    return Target(
        *(
            part.collect(column.to(torch.uint8)).bool() if column.dtype == torch.bool else part.collect(column)
            for column in columns
        )
    )


def _drawn(length: int, shard: Shard, draws: torch.Generator) -> Labels:
    """This rank's rows of a mini-batch; all ranks draw the same mini-batch."""
    return torch.randint(length, (shard.total,), generator=draws, device=draws.device)[shard.rows]
