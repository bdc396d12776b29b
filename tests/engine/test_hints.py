"""Hints: the student also predicts feature maps of the expert."""

import copy

import attrs
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import exml
from exml.core.errors import ExmlWarning, SettingError
from exml.core.execution import Execution
from exml.core.rng import derive_seed
from exml.engine import Hints, Training
from exml.learning import CheckpointFolder, Stop, events
from exml.models import ConvNet, SlimResNet18
from exml.testing import run_on_ranks
from tests.engine.helpers import LOSS, distilled, teachers_of, weights
from tests.helpers import experts as small_experts
from tests.helpers import network, same, strategy

HINTED = Training(iterations=4, batch_size=4, learning_rate=0.01, optimizer="adam", hints=2.0)


def nets():
    """A student, a previous student and an expert of another architecture; all have 8x8 and 4x4 feature maps."""
    torch.manual_seed(0)
    student, previous = (ConvNet(3, 10, 16, widths=(4, 6)).double() for _ in range(2))
    return student, previous.eval(), SlimResNet18(width=2).double().eval()


def test_steps_are_those_of_the_plain_twin():
    student, previous, expert = nets()
    memory = exml.Samples.of(torch.rand(12, 3, 16, 16).double(), torch.arange(12) % 10)
    teachers, twin = teachers_of(previous, expert, (3, 16, 16)), copy.deepcopy(student)

    hints = Hints(twin, teachers.expert, memory.images, seed=3)
    kept = {}
    for module, pairs in ((twin, "student"), (expert, "expert")):
        for pair in hints.pairs:
            module.get_submodule(getattr(pair, pairs)).register_forward_hook(
                lambda _m, _i, out, key=(pairs, pair.resolution): kept.__setitem__(key, out)
            )
    optimizer, draws = HINTED.make_optimizer(nn.ModuleList([twin, hints])), torch.Generator()
    twin.train()
    for step in range(HINTED.iterations):
        draws.manual_seed(derive_seed(3, step))
        batch = memory[torch.randint(len(memory), (HINTED.batch_size,), generator=draws)]
        with torch.no_grad():
            target = teachers.target(batch)
        loss = LOSS(twin(batch.images), target, batch.labels)
        for pair, predict in zip(hints.pairs, hints.maps, strict=True):
            own, theirs = kept["student", pair.resolution], kept["expert", pair.resolution]
            loss = loss + HINTED.hints * mse_loss(predict(own), theirs) / pair.variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    alone = copy.deepcopy(student)
    torch.testing.assert_close(weights(distilled(student, teachers, memory, HINTED, seed=3)), weights(twin))
    assert not torch.allclose(weights(student), weights(alone), atol=1e-3)
    assert {pair.resolution for pair in hints.pairs} == {(16, 16), (8, 8), (4, 4)}
    assert copy.deepcopy(student) is not student  # no feature map with a graph is left in it


def test_without_a_common_resolution_there_are_no_hints():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.warns(ExmlWarning, match=r"feature map of expert 'mlp'.*only its logits"):
        hints = Hints(ConvNet(1, 2, 8), exml.Expert(flat, (0, 1), (1, 8, 8), name="mlp"), torch.rand(2, 1, 8, 8), 0)
    assert hints.pairs == ()


def test_a_bank_of_views_stores_no_feature_maps():
    with pytest.raises(SettingError, match=r"without Training\.views"):
        Training(iterations=1, batch_size=1, learning_rate=1.0, views=2, hints=1.0)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    chosen = strategy(training=HINTED)

    def run(folder, stops=None):
        stop = Stop()

        def ask(event):
            if isinstance(event, events.DistillationProgress) and (event.experience, event.done) == (2, stops):
                stop.ask()

        place = CheckpointFolder(folder, every=1)
        settings = {"seed": 3, "observers": [ask], "stop": stop}
        fresh = network(seed=7)
        if place.exists():
            learner = exml.Learner(chosen, fresh, **settings).resume(place)
        else:
            learner = exml.Learner(chosen, fresh, folder=place, **settings)
        learner.learn_stream(exml.ExpertStream.from_experts(small_experts(2)))
        return learner

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "stopped", 2).experience == 1
    again = run(tmp_path / "stopped")
    assert again.experience == 2
    assert same(again.student.state_dict(), whole.student.state_dict())


def test_ranks_share_the_steps():
    def learned(ranks):
        torch.manual_seed(0)
        previous, expert = (ConvNet(1, 4, 8).double().eval() for _ in range(2))
        memory = exml.Samples.of(torch.rand(20, 1, 8, 8).double(), torch.arange(20) % 4)
        student = ConvNet(1, 4, 8, batch_norm=False).double()
        return weights(distilled(student, teachers_of(previous, expert, (1, 8, 8), 4), memory, HINTED, ranks=ranks))

    one = learned(exml.distributed.ALONE)
    for other in run_on_ranks(learned, 2):
        torch.testing.assert_close(other, one)


def test_bfloat16_stays_close():
    training = attrs.evolve(HINTED, optimizer="sgd", learning_rate=1e-3)

    def learned(**live):
        torch.manual_seed(0)
        previous, expert, student = (ConvNet(1, 4, 8) for _ in range(3))
        teachers = teachers_of(previous.eval(), expert.eval(), (1, 8, 8), 4)
        memory, start = exml.Samples.of(torch.rand(20, 1, 8, 8), torch.arange(20) % 4), weights(student)
        return weights(distilled(student, teachers, memory, training, **live)) - start

    exact, rounded = learned(), learned(execution=Execution(precision="bfloat16"))
    assert 0 < (exact - rounded).norm() < 0.1 * exact.norm()
