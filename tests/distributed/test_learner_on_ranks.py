"""A learner on several ranks: the student of one rank, one writer, and runs that go on with another number of ranks."""

import threading

import pytest
import torch

import exml
from exml.augmentation import Augmentation
from exml.core.errors import SettingError, StreamError
from exml.distributed import ALONE
from exml.engine import Training
from exml.generators import ModelInversion
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.losses import Distillation
from exml.models import ConvNet
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, L2Norm, Sum
from exml.testing import run_on_ranks
from tests import tiny


def strategy(**changes):
    parts = {
        "generator": ModelInversion(iterations=6, batch_size=5),
        "prior": Sum((L2Norm(1e-3), BatchNormStatistics(1.0))),
        "augmentation": Augmentation(shift=1),
        "combiner": exml.combiners.ByClass(),
        "normalizer": CenterLogits(),
        "buffer": exml.buffers.Cumulative(13),
        "loss": Distillation(),
        "training": Training(iterations=7, batch_size=5, learning_rate=0.01, momentum=0.9),
    }
    return exml.Strategy(**{**parts, **changes})


def experts():
    """With batch norm, and statistics of their own."""
    made = []
    for number in range(2):
        torch.manual_seed(number)
        module = ConvNet(1, 4, 8)
        module(torch.rand(32, 1, 8, 8))
        made.append(exml.Expert(module.eval(), (2 * number, 2 * number + 1), (1, 8, 8), outputs=range(4)))
    return exml.ExpertStream.from_experts(made)


def student(seed=9):
    torch.manual_seed(seed)
    return ConvNet(1, 4, 8)


def state_of(learner):
    return {name: tensor.clone() for name, tensor in learner.student.state_dict().items()}


def assert_alike(state, other):
    for name, tensor in other.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-3)


def learned(ranks, *, folder=None, resume=False, stop_at=None, **changes):
    """A whole run, or one that is killed when an event arrives for which ``stop_at`` holds."""

    class KilledError(Exception):
        pass

    def kill(event, /):
        if stop_at is not None and stop_at(event):
            raise KilledError

    # A rank that brings another student is given the leader's.
    learner = exml.Learner(
        strategy(**changes),
        student(ranks.rank),
        seed=4,
        folder=None if resume or folder is None else CheckpointFolder(folder, every=2),
        observers=[kill],
        ranks=ranks,
    )
    if resume:
        learner.resume(CheckpointFolder(folder, every=2))
    try:
        learner.learn_stream(experts())
    except KilledError:
        return None
    return state_of(learner)


@pytest.fixture(scope="module")
def alone():
    return learned(ALONE)


@pytest.mark.parametrize("size", [2, 3])
def test_the_student_is_that_of_one_rank(alone, size):
    states = run_on_ranks(learned, size)
    for state in states:
        assert_alike(state, alone)
        assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items())


def in_generation(event):
    return isinstance(event, events.GenerationProgress) and (event.experience, event.done) == (2, 9)


def in_distillation(event):
    return isinstance(event, events.DistillationProgress) and (event.experience, event.done) == (2, 5)


@pytest.mark.parametrize("stop_at", [in_generation, in_distillation])
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_ranks(tmp_path, alone, stop_at, before, after):
    killed = run_on_ranks(lambda ranks: learned(ranks, folder=tmp_path, stop_at=stop_at), before)
    assert killed == [None] * before
    for state in run_on_ranks(lambda ranks: learned(ranks, folder=tmp_path, resume=True), after):
        assert_alike(state, alone)


def test_the_leader_alone_writes(tmp_path, monkeypatch):
    rank_of, wrote = {}, []

    def spied(method):
        def spy(self, *arguments):
            wrote.append(rank_of[threading.get_ident()])
            return method(self, *arguments)

        return spy

    for name in ("write", "write_memory", "clean"):
        monkeypatch.setattr(CheckpointFolder, name, spied(getattr(CheckpointFolder, name)))

    def work(ranks):
        rank_of[threading.get_ident()] = ranks.rank
        return learned(ranks, folder=tmp_path)

    run_on_ranks(work, 2)
    assert len(wrote) > 10
    assert set(wrote) == {0}


def test_generators_that_share_nothing_out(alone):
    changes = {"generator": exml.generators.GaussianNoise(), "prior": None, "augmentation": None}
    one = learned(ALONE, **changes)
    for state in run_on_ranks(lambda ranks: learned(ranks, **changes), 2):
        assert_alike(state, one)


def test_fewer_images_than_ranks_are_refused():
    with pytest.raises(SettingError, match=r"at least 3 images.*batch_size=2"):
        run_on_ranks(
            lambda ranks: exml.Learner(
                tiny.strategy(training=Training(iterations=1, batch_size=2, learning_rate=0.1)), student(), ranks=ranks
            ),
            3,
        )


def test_different_experts_on_different_ranks_are_refused():
    def work(ranks):
        learner = exml.Learner(strategy(), student(), ranks=ranks)
        learner.learn(experts()[ranks.rank])

    with pytest.raises(StreamError, match="on rank 1"):
        run_on_ranks(work, 2)
