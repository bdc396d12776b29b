"""Streams of unknown length: experts and paths of cards out of an iterable, gone through once."""

import copy
import json
import threading

import pytest
import torch

import exml
from exml.core.errors import ExpertError, StreamError
from exml.experts import ExpertStream, OpenStream, load_expert, save_expert
from exml.models import ConvNet
from tests.helpers import experts, network, same, strategy, weights


@pytest.fixture
def cards(tmp_path):
    """Paths of five experts on the disk."""
    paths = []
    for index in range(5):
        torch.manual_seed(index)
        expert = exml.Expert(
            ConvNet(1, 6, 6, widths=(4,)), (index, index + 1), (1, 6, 6), outputs=range(6), name=f"e{index}"
        )
        paths.append(save_expert(expert, tmp_path / "experts"))
    return paths


def test_experts_and_paths_of_cards(cards):
    mixed = OpenStream(iter([load_expert(cards[0]), cards[1], str(cards[2])]))
    assert [expert.name for expert in mixed] == ["e0", "e1", "e2"]
    assert list(mixed) == []  # an iterator is gone through once
    again = OpenStream(cards, read_ahead=False)
    assert [expert.name for expert in again] == [expert.name for expert in again]


def test_it_has_no_length():
    stream = OpenStream(iter(experts()))
    with pytest.raises(TypeError, match=r"OpenStream.* has no len"):
        len(stream)


@pytest.mark.parametrize("read_ahead", [True, False])
def test_the_next_is_taken_in_the_background_if_wanted(read_ahead):
    threads = []

    def source():
        for expert in experts(3):
            threads.append(threading.current_thread() is threading.main_thread())
            yield expert

    names = [expert.name for expert in OpenStream(source(), read_ahead=read_ahead)]
    assert names == ["e0", "e1", "e2"]
    assert threads == [True, not read_ahead, not read_ahead]


def test_of_those_that_were_learned_nothing_is_loaded(cards):
    cards[0].unlink()
    cards[1].with_suffix(".safetensors").unlink()
    assert [expert.name for expert in OpenStream(iter(cards)).after(2)] == ["e2", "e3", "e4"]
    with pytest.raises(StreamError, match=r"at least 6 expert.*got 5"):
        OpenStream(iter(cards)).after(6)


@pytest.mark.parametrize("fault", ["gone", "cut", "other", "card"])
def test_a_fault_has_the_words_of_load_expert_at_its_turn(cards, fault):
    streams = [ExpertStream.from_folder(cards[0].parent), OpenStream(cards)]
    file = cards[2].with_suffix(".safetensors")
    if fault == "gone":
        file.unlink()
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:-10])
        card = json.loads(cards[2].read_text())
        cards[2].write_text(json.dumps(card | {"sha256": None}))
    elif fault == "other":
        file.write_bytes(cards[1].with_suffix(".safetensors").read_bytes())
    else:
        card = json.loads(cards[2].read_text())
        card["architecture"]["settings"]["widths"] = [5]
        cards[2].write_text(json.dumps(card))
    with pytest.raises(ExpertError) as expected:
        load_expert(cards[2])
    for stream in streams:
        coming = iter(stream)
        assert [next(coming).name, next(coming).name] == ["e0", "e1"]
        with pytest.raises(ExpertError) as raised:
            next(coming)
        assert str(raised.value) == str(expected.value)


def test_reading_ahead_disturbs_nobodys_random_numbers(cards):
    """The same bits with dropout in the student, whether experts come from memory or are read beside its training."""
    chosen = strategy(generator=exml.generators.GaussianNoise(), prior=None)
    students = []
    loaded = [load_expert(card) for card in cards[:3]]
    for stream in (
        ExpertStream.from_experts(copy.deepcopy(loaded)),
        OpenStream(cards[:3]),
        ExpertStream.from_folder(cards[0].parent)[:3],
    ):
        learner = exml.Learner(chosen, network(dropout=0.3), seed=1)
        learner.learn_stream(stream)
        students.append(weights(learner.student))
    assert same(students[0], students[1])
    assert same(students[0], students[2])


class Killed(BaseException):
    """As good as kill -9 for the files."""


def test_a_learner_goes_on_in_a_stream_that_is_given_again(cards, tmp_path):
    chosen = strategy(generator=exml.generators.GaussianNoise(), prior=None, buffer=exml.buffers.Cumulative(20))
    whole = exml.Learner(chosen, network(), seed=1)
    whole.learn_stream(OpenStream(iter(cards)))
    assert whole.experience == 5

    count = iter(range(100))

    def tire(_event):
        if next(count) == 30:
            raise Killed

    with pytest.raises(Killed):
        exml.Learner(chosen, network(), seed=1, folder=tmp_path / "run", observers=[tire]).learn_stream(
            OpenStream(iter(cards))
        )
    learner = exml.Learner(chosen, network(), seed=1).resume(tmp_path / "run")
    assert learner.experience > 0
    with pytest.raises(StreamError, match="including the experts that were learned before"):
        learner.learn_stream(OpenStream(iter(())))
    learner.learn_stream(OpenStream(iter(cards)))
    assert same(weights(learner.student), weights(whole.student))


def test_an_open_stream_without_experts_is_a_typed_error():
    learner = exml.Learner(strategy(), network())
    with pytest.raises(StreamError, match=r"at least 1 expert.*got 0"):
        learner.learn_stream(OpenStream(iter(())))
