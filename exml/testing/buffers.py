"""Conformance of buffer policies."""

from __future__ import annotations

import torch

from exml.core.samples import Samples
from exml.protocols import BufferPolicy
from exml.testing.component import check_component, require


def check_buffer(policy: BufferPolicy, experiences: int = 4) -> None:
    """A policy is a component; it keeps only samples that it was given, each at most once, the same for a generator.

    Args:
        policy: the one to check, large enough for the stream.
        experiences: how many to run it for.

    Raises:
        AssertionError: naming the first property that does not hold.

    >>> from exml.buffers import Cumulative
    >>> check_buffer(Cumulative(12))
    """
    check_component(policy, "buffer")
    memory = None
    for experience in range(1, experiences + 1):
        share = policy.share(experience)
        require(share >= 1, "must ask for at least one new sample", policy)
        images = (experience + torch.arange(share) / (2 * share)).view(-1, 1, 1, 1)  # each image is its own name
        new = Samples.of(images, torch.arange(share) % 2 + 2 * experience, experience=experience)
        kept = policy(memory, new, torch.Generator().manual_seed(experience))
        again = policy(memory, new, torch.Generator().manual_seed(experience))
        require(torch.equal(kept.images, again.images), "must keep the same samples for the same generator", policy)
        require(len(kept) > 0, "must keep something", policy)
        given = new if memory is None else Samples.concat([memory, new])
        names = kept.images.flatten()
        require(len(names.unique()) == len(names), "must keep no sample twice", policy)
        position = (names[:, None] == given.images.flatten()[None]).float().argmax(1)
        same = torch.equal(given.labels[position], kept.labels) and torch.equal(
            given.experiences[position], kept.experiences
        )
        require(same and bool(torch.isin(names, given.images).all()), "must keep samples as they were given", policy)
        memory = kept
