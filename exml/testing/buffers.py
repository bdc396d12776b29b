"""Conformance of buffer policies."""

from __future__ import annotations

import torch

from exml.core.samples import Samples
from exml.protocols import BufferPolicy
from exml.testing.component import check_component, requirement


def check_buffer(policy: BufferPolicy, experiences: int = 4) -> None:
    """Check that a policy is a component and keeps given samples, each at most once, the same for the same generator.

    Args:
        policy: large enough for the stream.
        experiences: number of experiences.

    Raises:
        AssertionError: names the first property that does not hold, and the remedy.

    >>> from exml.buffers import Cumulative
    >>> check_buffer(Cumulative(12))
    """
    check_component(policy, "buffer")
    must = requirement(policy)
    memory = None
    for experience in range(1, experiences + 1):
        share = policy.share(experience)
        must(share >= 1, "request at least one new sample per experience: return 1 or more from share")
        images = (experience + torch.arange(share) / (2 * share)).view(
            -1, 1, 1, 1
        )  # the value of an image identifies it
        new = Samples.of(images, torch.arange(share) % 2 + 2 * experience, experience=experience)
        kept = policy(memory, new, torch.Generator().manual_seed(experience))
        again = policy(memory, new, torch.Generator().manual_seed(experience))
        must(
            torch.equal(kept.images, again.images),
            "keep the same samples for the same generator: draw from the given one only",
        )
        must(len(kept) > 0, "keep at least one sample: raise BufferSizeError for a size that is too small")
        given = new if memory is None else Samples.concat([memory, new])
        names = kept.images.flatten()
        must(len(names.unique()) == len(names), "keep no sample twice: select without replacement")
        position = (names[:, None] == given.images.flatten()[None]).float().argmax(1)
        same = torch.equal(given.labels[position], kept.labels) and torch.equal(
            given.experiences[position], kept.experiences
        )
        must(
            same and bool(torch.isin(names, given.images).all()),
            "keep samples unchanged: select rows of memory and new",
        )
        memory = kept
