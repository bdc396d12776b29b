"""Buffer policies: sizes of Algorithm 1, and who stays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import exml
from exml.buffers import ClassBalanced, Cumulative, Reservoir, Unbounded


def made(count, experience, classes=(0, 1)):
    """Samples whose images say which they are: image value = experience + position / 10^4."""
    images = (experience + torch.arange(count) / 10_000).view(-1, 1, 1, 1)
    return exml.Samples.of(images, torch.tensor(classes).repeat(count)[:count], experience=experience)


def run(policy, experiences, seed=0, classes=lambda i: (2 * i, 2 * i + 1)):
    memory, generator = None, torch.Generator().manual_seed(seed)
    for experience in range(1, experiences + 1):
        memory = policy(memory, made(policy.share(experience), experience, classes(experience)), generator)
        yield memory


@given(size=st.integers(1, 60), experiences=st.integers(1, 8))
def test_cumulative_sizes_are_those_of_eq_5(size, experiences):
    experiences = min(experiences, size)
    for experience, memory in enumerate(run(Cumulative(size), experiences), start=1):
        assert len(memory) == size
        assert (memory.experiences == experience).sum() == size // experience
        assert len(memory.images.unique()) == size  # no sample twice


def test_cumulative_keeps_earlier_samples_with_equal_probability():
    counts = torch.zeros(10)
    first = made(10, 1)
    policy = Cumulative(10)
    for seed in range(2_000):
        memory = policy(first, made(5, 2), torch.Generator().manual_seed(seed))
        kept = memory.images[memory.experiences == 1].flatten()
        counts[((kept - 1) * 10_000).round().long()] += 1
    assert counts.sum() == 10_000
    # binomial(2000, 1/2): a standard deviation of 22.4; 5 of them
    assert (counts - 1_000).abs().max() < 112


@pytest.mark.parametrize("policy", [Cumulative(4), ClassBalanced(4)])
def test_a_share_of_nothing_is_refused(policy):
    assert policy.share(4) == 1
    with pytest.raises(exml.core.errors.BufferSizeError, match="at least 5 samples"):
        policy.share(5)


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), size=st.integers(1, 60))
def test_class_balanced_is_as_even_as_the_rarer_classes_allow(counts, size):
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    new = exml.Samples.of(torch.rand(len(labels), 1, 2, 2), labels)
    kept = ClassBalanced(size)(None, new, torch.Generator().manual_seed(0))
    got = torch.bincount(kept.labels, minlength=len(counts)).tolist()
    assert len(kept) == min(size, len(labels))
    # max-min fairness: a class below the largest share by more than one was kept whole
    assert all(held == count for held, count in zip(got, counts, strict=True) if held < max(got) - 1)


def test_reservoir_keeps_each_sample_ever_made_with_the_same_probability():
    policy, counts, runs = Reservoir(60, per_experience=50), torch.zeros(4), 300
    for seed in range(runs):
        *_, memory = run(policy, 4, seed)
        assert len(memory) == 60
        counts += torch.bincount(memory.experiences, minlength=5)[1:]
    expected = runs * 60 / 4
    assert ((counts - expected).abs() < 5 * (expected * 0.75) ** 0.5).all(), counts


def test_unbounded_keeps_everything_in_order():
    *_, memory = run(Unbounded(3), 4)
    assert memory.experiences.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    "make", [Cumulative, ClassBalanced, Unbounded, lambda n: Reservoir(n, 1), lambda n: Reservoir(1, n)]
)
@pytest.mark.parametrize("size", [0, -1, 2.5, "many", True])
def test_sizes_are_positive_integers(make, size):
    with pytest.raises(exml.core.errors.SettingError, match="an integer >= 1"):
        make(size)


@pytest.mark.parametrize("policy", [Cumulative(8), ClassBalanced(8), Reservoir(8, 4)])
def test_the_same_generator_keeps_the_same_samples(policy):
    (*_, one), (*_, two), (*_, other) = run(policy, 4, 1), run(policy, 4, 1), run(policy, 4, 2)
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
