"""Shards, and the ways in which ranks exchange numbers."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exml.distributed import ALONE, Shard
from exml.distributed._mailbox import CAPACITY, Mailbox
from exml.testing import run_on_ranks


@given(total=st.integers(0, 40), size=st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_shards_cover_a_batch_in_order_and_evenly(total, size):
    shards = run_on_ranks(lambda ranks: ranks.shard(total), size)
    rows = [row for shard in shards for row in range(total)[shard.rows]]
    assert rows == list(range(total))
    assert {shard.total for shard in shards} == {total}
    assert max(shards[0].counts) - min(shards[0].counts) <= 1


@pytest.mark.parametrize("counts", [(3, 4), (4, 0, 3), (0, 0, 7), (1, 5, 1)])
def test_collect_puts_the_parts_together(counts):
    whole = torch.arange(21.0).view(7, 3)

    def work(ranks):
        shard = ranks.shard_of(counts[ranks.rank])
        return shard.counts, shard.collect(whole[shard.rows])

    for found, collected in run_on_ranks(work, len(counts)):
        assert found == counts
        assert torch.equal(collected, whole)


@pytest.mark.parametrize("counts", [(3, 4), (4, 0, 3), (0, 0, 7), (1, 5, 1)])
def test_moments_are_those_of_numpy_over_all_rows(counts):
    """Values and gradients; what a rank without rows says does not matter, were it NaN."""
    values = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3

    def loss_of(var, mean):
        return (var.sin() + mean.square()).sum()

    def work(ranks):
        shard = ranks.shard_of(counts[ranks.rank])
        own = values[shard.rows].clone().requires_grad_()
        if not shard.own:
            nothing = torch.full((5,), torch.nan, dtype=torch.float64)
            return (*shard.moments(nothing, nothing), shard.collect(own))
        var, mean = shard.moments(own.var(0, correction=0), own.mean(0))
        # As everywhere: what is averaged over a rank's own rows counts as much as there are.
        (gradient,) = torch.autograd.grad(shard.own * loss_of(var, mean), own)
        return var, mean, shard.collect(gradient)

    leaf = values.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(7 * loss_of(leaf.var(0, correction=0), leaf.mean(0)), leaf)
    for var, mean, gradient in run_on_ranks(work, len(counts)):
        np.testing.assert_allclose(var.detach(), np.var(values.numpy(), 0), rtol=1e-12)
        np.testing.assert_allclose(mean.detach(), np.mean(values.numpy(), 0), rtol=1e-12)
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_one_rank_needs_nobody():
    values = torch.randn(3, requires_grad=True)
    var, mean = ALONE.shard(3).moments(values, values)
    assert var is values
    assert mean is values
    ALONE.wait()
    assert ALONE.tell("word") == "word"
    assert ALONE.gather(values).shape == (1, 3)


def test_a_rank_that_raises_stops_the_others():
    def work(ranks):
        if ranks.rank == 1:
            raise ValueError("rank 1")
        ranks.wait()

    with pytest.raises(ValueError, match="rank 1"):
        run_on_ranks(work, 3)


def in_mailboxes(path, size, work):
    """A mailbox for each of some threads, as if they were processes."""
    boxes = [Mailbox(path, rank, size, create=rank == 0, timeout=20) for rank in range(size)]
    path.unlink()
    results = [None] * size
    threads = [
        threading.Thread(target=lambda rank=rank: results.__setitem__(rank, work(boxes[rank], rank)))
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("size", [2, 3])
def test_many_messages_of_all_kinds_arrive(tmp_path, size):
    """One after the other as fast as it goes: no rank sees an old message, or one too new."""
    kinds = [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16]

    def message(rank, number):
        shape = [(), (3,), (2, 5), (0,)][number % 4]
        return torch.full(shape, (10 * number + rank) % 101, dtype=kinds[number % 5])

    def work(box, rank):
        draws = torch.Generator().manual_seed(rank)
        for number in range(400):
            if int(torch.randint(7, (), generator=draws)) == 0:
                torch.randn(60, 60) @ torch.randn(60, 60)  # now and then a rank is late
            got = box.gather(message(rank, number))
            wanted = torch.stack([message(other, number) for other in range(size)])
            if got.dtype != wanted.dtype or not torch.equal(got, wanted):
                return number
        return "all"

    assert in_mailboxes(tmp_path / "box", size, work) == ["all"] * size


def test_only_short_messages_of_the_processor_fit(tmp_path):
    box = Mailbox(tmp_path / "box", 0, 1, create=True, timeout=1)
    assert box.fits(torch.zeros(CAPACITY // 4))
    assert not box.fits(torch.zeros(CAPACITY // 4 + 1))
    assert not box.fits(torch.zeros(1, device="meta"))
    assert torch.equal(box.gather(torch.ones(CAPACITY // 4)), torch.ones(1, CAPACITY // 4))


def test_a_rank_that_never_answers_is_an_error(tmp_path):
    box = Mailbox(tmp_path / "box", 0, 2, create=True, timeout=0.2)
    with pytest.raises(RuntimeError, match="rank 1 sent no message"):
        box.gather(torch.ones(3))


def test_shards_print():
    assert repr(ALONE) == "ALONE"
    assert isinstance(ALONE.shard(2), Shard)
