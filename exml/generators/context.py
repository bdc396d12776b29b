"""What a generator is given beside expert, size and seed."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from exml._types import Augmentation, Journal, Prior, State
from exml.distributed import Alone, Ranks
from exml.engine import EAGER, Execution
from exml.samples import Samples


@attrs.frozen
class NoJournal:
    """Keeps nothing and reports to nobody."""

    def restore(self) -> State | None:
        """Always a fresh start."""
        return None

    def record(self, done: int, total: int, state: Callable[[], State], /) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class GenerationContext:
    """The parts of a strategy that act inside a generator, and where it reports.

    Args:
        prior: added to the loss of generators that optimise pixels.
        augmentation: applied to the images before every forward pass of generators that optimise pixels.
        journal: told of the progress; hands back the state of a generation that was killed.
        experience: i, from 1, for generators that read the data of an experience.
        memory: M_{i-1}, for generators that begin with earlier images; None in the first experience.
        execution: of the steps of generators that optimise pixels.
        ranks: that make the images together. All of them call the generator with the same arguments, and each is given
            all samples; a generator that shares nothing out does the same on every rank.
    """

    prior: Prior | None = None
    augmentation: Augmentation | None = None
    journal: Journal = NoJournal()
    experience: int = 1
    memory: Samples | None = None
    execution: Execution = EAGER
    ranks: Ranks = attrs.field(factory=Alone)


ALONE = GenerationContext()
"""What a generator is given when it is called by itself: no prior, no augmentation, nobody listening."""
