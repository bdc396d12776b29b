"""Students that grow when a later expert brings new classes: nothing is lost, and runs resume to the same bits."""

import pytest
import torch

import exml
from exml.core.errors import CheckpointError, ExpertError, SettingError, StreamError
from exml.engine import Training
from exml.learning import CheckpointFolder, Stop, events
from exml.models import Normalized, describe
from exml.testing import run_on_ranks
from tests.helpers import SHAPE, network, same, strategy, weights


def stream():
    """Experts of classes 0 and 1, 2 and 3, 4 and 5; each has only its own outputs."""
    return [exml.Expert(network(2, seed=i), (2 * i, 2 * i + 1), SHAPE, name=f"e{i}") for i in range(3)]


def begun(chosen, student=None, **settings):
    """A learner that has learned from one expert."""
    learner = exml.Learner(chosen, network(2, seed=7, dropout=0.2) if student is None else student, seed=3, **settings)
    learner.learn(stream()[0])
    return learner


def test_old_outputs_stay_and_the_new_classes_are_learned():
    training = Training(iterations=60, batch_size=8, learning_rate=0.05, momentum=0.9)
    chosen = strategy(training=training, augmentation=None, buffer=exml.buffers.Cumulative(24))
    learner = begun(chosen, network(2, seed=7))
    images = torch.rand(4, *SHAPE)
    with torch.no_grad():
        before = learner.student.eval()(images)
        learner.grow(4)
        torch.testing.assert_close(learner.student(images)[:, :2], before)
    learner.learn(stream()[1])
    assert learner.classes_seen == (0, 1, 2, 3)
    memory = learner.memory
    with torch.no_grad():
        predicted = learner.student.eval()(memory.images).argmax(1)
    assert (predicted == memory.labels).float().mean() > 0.8
    assert set(predicted.tolist()) >= {2, 3}


def test_the_record_of_the_student_grows():
    student = Normalized(exml.models.ConvNet(1, 2, 6, widths=(4,)), (0.5,), (0.2,))
    learner = exml.Learner(strategy(), student)
    learner.grow(6, SHAPE)  # before the first experience
    assert describe(student)["settings"]["module"]["settings"]["classes"] == 6
    learner.learn_stream(exml.ExpertStream.from_experts(stream()))
    assert learner.experience == 3


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda learner: learner.learn(stream()[1]), ExpertError, "class ids below 2.*Learner.grow"),
        (lambda learner: learner.grow(1), SettingError, "at least 2 outputs"),
        (lambda _: exml.Learner(strategy(), network(2)).grow(4), StreamError, "learn from an expert first"),
    ],
)
def test_what_cannot_be_is_said(act, error, words):
    with pytest.raises(error, match=words):
        act(begun(strategy()))


def test_a_student_does_not_grow_within_an_experience():
    stop = Stop()

    def ask(event):
        if isinstance(event, events.BufferUpdated) and event.experience == 2:
            stop.ask()

    learner = begun(strategy(), stop=stop, observers=[ask])
    learner.grow(4)
    learner.learn(stream()[1])
    assert learner.experience == 1
    with pytest.raises(StreamError, match="experience 2 in progress"):
        learner.grow(6)


@pytest.mark.parametrize("start", ["continue", "reset"])
def test_a_grown_student_resumes_to_the_same_bits_from_every_event(tmp_path, start):
    """The learner that resumes starts with the small student of the beginning."""
    chosen = strategy(student=start)

    def run(folder, stops=None):
        """Until the end, or until the event of that number in the experiences after the first."""
        stop, count = Stop(), 0

        def ask(event):
            nonlocal count
            if isinstance(event, events.GenerationProgress | events.DistillationProgress) and event.experience > 1:
                count += 1
                if count == stops:
                    stop.ask()

        place = CheckpointFolder(folder, every=2)
        settings = {"seed": 3, "observers": [ask], "stop": stop}
        learner = exml.Learner(chosen, network(2, seed=7, dropout=0.2), **settings)
        learner = learner.resume(place) if place.exists() else exml.Learner(
            chosen, network(2, seed=7, dropout=0.2), folder=place, **settings
        )  # fmt: skip
        for number, expert in enumerate(stream()):
            if number < learner.experience:
                continue
            if not learner.history or "loss" in learner.history[-1]:  # not within an experience
                learner.grow(2 * number + 2, SHAPE)
            learner.learn(expert)
            if stop.asked:
                break
        return learner, count

    whole, total = run(tmp_path / "whole")
    assert whole.experience == 3
    assert weights(whole.student)["5.bias"].shape == (6,)
    for stops in range(1, total, 12):
        folder = tmp_path / str(stops)
        assert run(folder, stops)[0].experience < 3
        again, _ = run(folder)
        assert same(weights(again.student), weights(whole.student)), stops
        assert torch.equal(again.memory.images, whole.memory.images)


def test_reset_starts_a_grown_student_at_its_initial_weights():
    student = network(2, seed=7)
    initial = weights(student)
    learner = exml.Learner(strategy(student="reset"), student, seed=3)
    learner.learn(stream()[0])
    learner.grow(4)
    grown = weights(student)
    for name, first in learner._initial.items():
        wanted = torch.cat((initial[name], grown[name][2:])) if name.startswith("5.") else initial[name]
        assert torch.equal(first, wanted)


def test_only_the_last_layer_may_be_larger_in_a_checkpoint(tmp_path):
    begun(strategy(), network(4, seed=7), folder=tmp_path)
    resumed = exml.Learner(strategy(), network(2), seed=3).resume(tmp_path)
    assert resumed.student(torch.rand(2, *SHAPE)).shape == (2, 4)
    for other in (network(6), network(2, width=3)):
        with pytest.raises(CheckpointError, match="another architecture"):
            exml.Learner(strategy(), other, seed=3).resume(tmp_path)


def test_all_ranks_grow_alike():
    def work(ranks):
        learner = begun(strategy(), network(2, seed=7), ranks=ranks)
        learner.grow(4)
        learner.learn(stream()[1])
        return weights(learner.student)

    one, two = run_on_ranks(work, 2)
    assert same(one, two)
    for name, tensor in run_on_ranks(work, 1)[0].items():
        torch.testing.assert_close(one[name], tensor, rtol=1e-3, atol=1e-3)
