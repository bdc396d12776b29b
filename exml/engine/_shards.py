"""Augmentation of some rows of a batch, as if the whole batch had been augmented."""

from __future__ import annotations

import torch

from exml.augmentation import Augmentation, Chain
from exml.core.ranks import Shard
from exml.core.shapes import Images
from exml.protocols import Augmentation as AnyAugmentation


def augment(augmentation: AnyAugmentation | None, images: Images, draws: torch.Generator, shard: Shard) -> Images:
    """What the augmentation of the whole batch makes of this rank's rows; ``draws`` is used alike on every rank.

    Args:
        augmentation: None changes nothing. One that we do not know is given a batch of the whole size in which the
            rows of the others are black: it changes every image by parameters of its own, so these do not matter.
        images: ``(shard.own, channels, height, width)``.
        draws: for the whole batch.
        shard: which rows they are.
    """
    if augmentation is None:
        return images
    if shard.ranks.alone:
        return augmentation(images, draws)
    if isinstance(augmentation, Chain):
        for part in augmentation.augmentations:
            images = augment(part, images, draws, shard)
        return images
    if isinstance(augmentation, Augmentation):
        return augmentation.apply(images, augmentation.draw(shard.total, draws)[:, shard.rows])
    before, after = shard.rows.start, shard.total - shard.rows.stop
    padded = torch.nn.functional.pad(images, (0, 0, 0, 0, 0, 0, before, after))
    return augmentation(padded, draws)[shard.rows]
