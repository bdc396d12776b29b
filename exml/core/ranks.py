"""Ranks: the processes that learn one student together, and the messages between them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import attrs
import torch
from torch import Tensor


class Ranks(ABC):
    """The ranks as seen by one of them; all ranks call the same methods in the same order.

    ``rank`` is the number of this process, from 0; ``size`` is the number of ranks.
    """

    rank: int
    size: int

    @property
    def leader(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this is the only rank."""
        return self.size == 1

    @abstractmethod
    def gather(self, values: Tensor, /) -> Tensor:
        """All-gather values of one shape: ``(size, *shape)``, without gradients."""

    @abstractmethod
    def add(self, values: Tensor, /) -> None:
        """All-reduce: replace the values on every rank by their sum over the ranks."""

    @abstractmethod
    def share(self, values: Tensor, /) -> None:
        """Broadcast: replace the values on every rank by those of the leader."""

    @abstractmethod
    def wait(self) -> None:
        """Barrier without a time limit; a dead rank raises an error."""

    @abstractmethod
    def tell(self, text: str, /) -> str:
        """Broadcast a text of the leader; waits without a time limit."""

    def leader_says(self, value: bool, /) -> bool:
        """Broadcast a decision of the leader; waits without a time limit."""
        return self.tell(str(value)) == str(True)

    def shard(self, total: int, /) -> Shard:
        """Split the rows of a batch over the ranks, as evenly as possible."""
        least, more = divmod(total, self.size)
        return Shard(self, tuple(least + (rank < more) for rank in range(self.size)))

    def shard_of(self, own: int, /) -> Shard:
        """The shard of a batch of which this rank holds ``own`` rows; makes one all-gather."""
        return Shard(self, tuple(self.gather(torch.tensor([own])).flatten().tolist()))


class Alone(Ranks):
    """A single process.

    >>> from exml.core.ranks import Alone
    >>> Alone().shard(5).rows
    slice(0, 5, None)
    """

    rank, size = 0, 1

    def gather(self, values: Tensor, /) -> Tensor:
        """The values as the only row."""
        return values.detach()[None]

    def add(self, values: Tensor, /) -> None:
        """Do nothing."""

    def share(self, values: Tensor, /) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""

    def tell(self, text: str, /) -> str:
        """The text."""
        return text

    def __repr__(self) -> str:
        return "ALONE"


ALONE = Alone()
"""The ranks of a run in one process."""


@attrs.frozen(eq=False)
class Shard:
    """A batch distributed over ``ranks``, with ``counts[rank]`` >= 0 rows on each, in the order of the ranks."""

    ranks: Ranks
    counts: tuple[int, ...]
    _sent: dict[torch.device, Tensor] = attrs.field(init=False, repr=False, factory=dict[torch.device, Tensor])

    @property
    def own(self) -> int:
        """The number of rows on this rank."""
        return self.counts[self.ranks.rank]

    @property
    def total(self) -> int:
        """The number of rows in the batch."""
        return sum(self.counts)

    @property
    def rows(self) -> slice:
        """The rows on this rank."""
        first = sum(self.counts[: self.ranks.rank])
        return slice(first, first + self.own)

    def collect(self, part: Tensor, /) -> Tensor:
        """Gather the rows of all ranks, ``(total, ...)``, from those of this one, ``(own, ...)``; no gradients."""
        if self.ranks.alone:
            return part.detach()
        padded = part.new_zeros(max(self.counts), *part.shape[1:])
        padded[: self.own] = part.detach()
        whole = self.ranks.gather(padded)
        return torch.cat([rows[:count] for rows, count in zip(whole, self.counts, strict=True)])

    def moments(self, var: Tensor, mean: Tensor, /) -> tuple[Tensor, Tensor]:
        """Biased variance and mean ``(channels,)`` of the whole batch, from those of this rank's rows.

        The gradient reaches only the rows of this rank, scaled by ``total / own``. A loss that is summed over the
        ranks as ``own · loss`` then has the value and the gradients of ``total · loss`` of the whole batch, and the
        backward pass needs no communication.
        """
        if self.ranks.alone:
            return var, mean
        own = torch.stack((var, mean)) if self.own else var.new_zeros(2, len(var))
        vars_, means = self.ranks.gather(own.detach()).unbind(1)
        weights = self._weights(var)
        if own.requires_grad:  # same values, scaled gradient
            scaled = own.detach() + (own - own.detach()) * (self.total / self.own)
            mine = torch.arange(self.ranks.size, device=var.device)[:, None] == self.ranks.rank
            vars_, means = torch.where(mine, scaled[0], vars_), torch.where(mine, scaled[1], means)
        mean = (weights * means).sum(0)
        return (weights * (vars_ + (means - mean).square())).sum(0), mean

    def _weights(self, like: Tensor) -> Tensor:
        """``(size, 1)``: the fraction of the batch on each rank."""
        if like.device not in self._sent:
            weights = torch.tensor(self.counts, dtype=torch.float64)[:, None] / self.total
            self._sent[like.device] = weights.to(like.device, like.dtype)
        return self._sent[like.device]
