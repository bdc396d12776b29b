"""A learner on several ranks: the student of one rank, one writer, and runs resumed with another number of ranks."""

import threading

import pytest
import torch

import exml
from exml.core.errors import SettingError, StreamError
from exml.distributed import ALONE
from exml.engine import Training
from exml.generators import GaussianNoise, ModelInversion
from exml.learning import CheckpointFolder, events
from exml.losses import Distillation
from exml.models import ConvNet
from exml.priors import BatchNormStatistics, L2Norm, Sum
from exml.testing import run_on_ranks
from tests import helpers


def strategy(**changes):
    parts = {
        "generator": ModelInversion(iterations=6, batch_size=5),
        "prior": Sum((L2Norm(1e-3), BatchNormStatistics(1.0))),
        "buffer": exml.buffers.Cumulative(13),
        "loss": Distillation(),
        "training": Training(iterations=7, batch_size=5, learning_rate=0.01, momentum=0.9),
    }
    return helpers.strategy(**{**parts, **changes})


def experts():
    """Experts with batch-norm statistics of their own."""
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


def assert_alike(state, other):
    for name, tensor in other.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-3)


class KilledError(Exception):
    pass


def learned(ranks, *, folder=None, resume=False, stop_at=None, **changes):
    """The student of a whole run; None if the run was killed by an event for which ``stop_at`` holds."""

    def kill(event, /):
        if stop_at is not None and stop_at(event):
            raise KilledError

    checkpoints = None if folder is None else CheckpointFolder(folder, every=2)
    # All ranks get the student of the leader.
    settings = {"seed": 4, "folder": None if resume else checkpoints, "observers": [kill], "ranks": ranks}
    learner = exml.Learner(strategy(**changes), student(ranks.rank), **settings)
    if resume:
        learner.resume(checkpoints)
    try:
        learner.learn_stream(experts())
    except KilledError:
        return None
    return helpers.weights(learner.student)


@pytest.fixture(scope="module")
def alone():
    return learned(ALONE)


def in_generation(event):
    return isinstance(event, events.GenerationProgress) and (event.experience, event.done) == (2, 9)


def in_distillation(event):
    return isinstance(event, events.DistillationProgress) and (event.experience, event.done) == (2, 5)


@pytest.mark.parametrize(
    ("stop_at", "before", "after"), [(in_generation, 2, 3), (in_distillation, 3, 1), (in_distillation, 1, 2)]
)
def test_a_killed_run_resumes_with_another_number_of_ranks(tmp_path, alone, stop_at, before, after):
    killed = run_on_ranks(lambda ranks: learned(ranks, folder=tmp_path, stop_at=stop_at), before)
    assert killed == [None] * before
    for state in run_on_ranks(lambda ranks: learned(ranks, folder=tmp_path, resume=True), after):
        assert_alike(state, alone)


def test_the_student_is_that_of_one_rank_and_only_the_leader_writes(tmp_path, monkeypatch, alone):
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

    states = run_on_ranks(work, 3)
    for state in states:
        assert_alike(state, alone)
        assert helpers.same(state, states[0])
    assert len(wrote) > 10
    assert set(wrote) == {0}


def test_generators_that_every_rank_repeats():
    changes = {"generator": GaussianNoise(), "prior": None, "augmentation": None}
    one = learned(ALONE, **changes)
    for state in run_on_ranks(lambda ranks: learned(ranks, **changes), 2):
        assert_alike(state, one)


def test_fewer_images_than_ranks_are_refused():
    chosen = strategy(training=Training(iterations=1, batch_size=2, learning_rate=0.1))
    with pytest.raises(SettingError, match=r"at least 3 images.*batch_size=2"):
        run_on_ranks(lambda ranks: exml.Learner(chosen, student(), ranks=ranks), 3)


def test_different_experts_on_different_ranks_are_refused():
    with pytest.raises(StreamError, match="on rank 1"):
        run_on_ranks(lambda ranks: exml.Learner(strategy(), student(), ranks=ranks).learn(experts()[ranks.rank]), 2)
