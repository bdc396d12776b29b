"""Ranks: the processes that learn one student together, and the few things that they tell each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import attrs
import torch
from torch import Tensor


class Ranks(ABC):
    """One process's view of all of them. Every method is called by every rank, in the same order.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @property
    def leader(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    @abstractmethod
    def gather(self, values: Tensor, /) -> Tensor:
        """``(size, *shape)``, the values of all ranks, which have one shape; without gradients."""

    @abstractmethod
    def add(self, values: Tensor, /) -> None:
        """Replace the values, on every rank, by their sum over the ranks."""

    @abstractmethod
    def share(self, values: Tensor, /) -> None:
        """Replace the values, on every rank, by those of the leader."""

    @abstractmethod
    def wait(self) -> None:
        """Until every rank is here, however long that takes; a rank that has died is noticed all the same."""

    @abstractmethod
    def tell(self, text: str, /) -> str:
        """The leader's text, on every rank; waits for the leader as :meth:`wait` does."""

    def leader_says(self, answer: bool, /) -> bool:
        """The leader's answer, on every rank; waits for the leader as :meth:`wait` does."""
        return self.tell(str(answer)) == str(True)

    def shard(self, total: int, /) -> Shard:
        """Rows of a batch for each rank: as many as can be alike, in order."""
        least, more = divmod(total, self.size)
        return Shard(self, tuple(least + (rank < more) for rank in range(self.size)))

    def shard_of(self, own: int, /) -> Shard:
        """The shard of a batch of which this rank holds ``own`` rows; the ranks tell each other how many."""
        return Shard(self, tuple(self.gather(torch.tensor([own])).flatten().tolist()))


class Alone(Ranks):
    """One process, which has nobody to talk to.

    >>> Alone().shard(5).rows
    slice(0, 5, None)
    """

    rank, size = 0, 1

    def gather(self, values: Tensor, /) -> Tensor:
        """The values as the only row."""
        return values.detach()[None]

    def add(self, values: Tensor, /) -> None:
        """Nothing to add."""

    def share(self, values: Tensor, /) -> None:
        """Nobody to share with."""

    def wait(self) -> None:
        """Nobody to wait for."""

    def tell(self, text: str, /) -> str:
        """The text."""
        return text

    def __repr__(self) -> str:
        return "ALONE"


ALONE = Alone()
"""What everything is given that runs in one process."""


@attrs.frozen(eq=False, slots=False)
class Shard:
    """How the rows of a batch lie on the ranks, in order of the ranks.

    Args:
        ranks: who holds them.
        counts: how many each rank holds; 0 is allowed.

    >>> ALONE.shard(4).total
    4
    """

    ranks: Ranks
    counts: tuple[int, ...]

    @property
    def own(self) -> int:
        """How many this rank holds."""
        return self.counts[self.ranks.rank]

    @cached_property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts)

    @cached_property
    def rows(self) -> slice:
        """Which this rank holds."""
        first = sum(self.counts[: self.ranks.rank])
        return slice(first, first + self.own)

    def collect(self, part: Tensor, /) -> Tensor:
        """``(total, ...)``, the rows of all ranks, on every one of them; without gradients.

        Args:
            part: ``(own, ...)``, this rank's.
        """
        if self.ranks.alone:
            return part.detach()
        widest = max(self.counts)
        padded = part.new_zeros(widest, *part.shape[1:])
        padded[: self.own] = part.detach()
        whole = self.ranks.gather(padded)
        return torch.cat([rows[:count] for rows, count in zip(whole, self.counts, strict=True)])

    def moments(self, var: Tensor, mean: Tensor, /) -> tuple[Tensor, Tensor]:
        """Biased variance and mean of the whole batch, of those of each rank's rows; one exchange.

        Their gradient reaches this rank's rows only, ``total / own`` times as large. A loss that averages over a
        rank's own rows is weighted by ``own`` wherever it is summed over ranks, and here that makes up for it: the sum
        over ranks of ``own · loss`` has the value and the gradients of ``total · loss`` of the whole batch. Nothing is
        exchanged in the backward pass.

        Args:
            var: ``(channels,)``, biased, of this rank's rows.
            mean: ``(channels,)``; of a rank without rows neither is looked at.

        Returns:
            tuple[Tensor, Tensor]: variance and mean, ``(channels,)``.
        """
        if self.ranks.alone:
            return var, mean
        own = torch.stack((var, mean)) if self.own else var.new_zeros(2, len(var))
        vars_, means = self.ranks.gather(own.detach()).unbind(1)
        weights = self._weights(var)
        if own.requires_grad:
            scaled = own.detach() + (own - own.detach()) * (self.total / self.own)
            mine = torch.arange(self.ranks.size, device=var.device)[:, None] == self.ranks.rank
            vars_, means = torch.where(mine, scaled[0], vars_), torch.where(mine, scaled[1], means)
        mean = (weights * means).sum(0)
        return (weights * (vars_ + (means - mean).square())).sum(0), mean

    def _weights(self, like: Tensor) -> Tensor:
        """``(size, 1)``: the part of the batch that each rank holds."""
        weights = self._sent.get(like.device)
        if weights is None:
            weights = torch.tensor(self.counts, dtype=torch.float64)[:, None] / self.total
            weights = self._sent[like.device] = weights.to(like.device, like.dtype)
        return weights

    @cached_property
    def _sent(self) -> dict[torch.device, Tensor]:
        return {}
