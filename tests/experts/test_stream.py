"""Streams of known and unknown length: lazy, ordered, one expert in use at a time, and the same errors on disk."""

import copy
import gc
import json
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import exml
from exml.core.errors import ExpertError, StreamError
from exml.experts import Expert, ExpertStream, OpenStream, load_expert, save_expert
from exml.models import ConvNet
from tests.helpers import experts, network, same, strategy, weights


def make(name: str, label: int = 0) -> Expert:
    return Expert(ConvNet(1, 2, 2, widths=(1,)), (label, label + 1), (1, 2, 2), name=name)


class Counting:
    """Loaders that count their calls and watch what is alive."""

    def __init__(self, length: int) -> None:
        self.calls: list[int] = []
        self.alive: list[weakref.ref[nn.Module]] = []
        self.most = 0
        self.stream = ExpertStream([lambda index=index: self.load(index) for index in range(length)])

    def load(self, index: int) -> Expert:
        self.calls.append(index)
        expert = make(f"e{index}", index)
        self.alive.append(weakref.ref(expert.module))
        gc.collect()
        self.most = max(self.most, sum(reference() is not None for reference in self.alive))
        return expert


def test_a_stream_loads_when_asked_and_again_the_second_time() -> None:
    counting = Counting(3)
    assert len(counting.stream) == 3
    assert counting.calls == []
    assert [expert.name for expert in counting.stream] == ["e0", "e1", "e2"]
    assert [expert.name for expert in counting.stream] == ["e0", "e1", "e2"]
    assert counting.calls == [0, 1, 2, 0, 1, 2]


def test_a_slice_is_a_stream_that_loads_nothing_of_the_rest() -> None:
    counting = Counting(5)
    rest = counting.stream[2:]
    assert (len(rest), len(rest[-1:]), len(counting.stream[9:])) == (3, 1, 0)
    assert counting.calls == []
    assert [expert.name for expert in rest[1:]] == ["e3", "e4"]
    assert counting.calls == [3, 4]
    assert counting.stream[-1].name == "e4"


def test_only_the_expert_of_the_moment_is_in_memory() -> None:
    counting = Counting(6)
    for expert in counting.stream:
        del expert
    assert counting.most == 1


def test_experts_in_memory_are_themselves() -> None:
    both = [make("a"), make("b")]
    assert [left is right for left, right in zip(ExpertStream.from_experts(both), both, strict=True)] == [True, True]
    assert len(ExpertStream.from_experts([])) == 0


@pytest.mark.parametrize(
    ("saved", "expected", "ordered"),
    [
        (
            ("expert-10", "expert-2", "a", "expert-1b", "expert-1"),
            ["a", "expert-1", "expert-1b", "expert-2", "expert-10"],
            False,
        ),
        (("c", "a", "b"), ["c", "a", "b"], True),
    ],
)
def test_a_folder_has_the_order_of_its_cards_or_else_of_the_names(
    tmp_path: Path, saved: tuple[str, ...], expected: list[str], ordered: bool
) -> None:
    for order, name in enumerate(saved):
        save_expert(make(name), tmp_path, order=order if ordered else None)
    assert [expert.name for expert in ExpertStream.from_folder(str(tmp_path))] == expected


@pytest.mark.parametrize("orders", [(0, None), (1, 1)])
def test_a_contradictory_order_is_a_typed_error(tmp_path: Path, orders: tuple[int | None, ...]) -> None:
    for index, order in enumerate(orders):
        save_expert(make(f"e{index}"), tmp_path, order=order)
    with pytest.raises(StreamError, match="order"):
        ExpertStream.from_folder(tmp_path)


def test_an_empty_or_absent_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="empty folder"):
        ExpertStream.from_folder(tmp_path)
    with pytest.raises(StreamError, match="no such folder"):
        ExpertStream.from_folder(tmp_path / "absent")


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_half_an_expert_is_named(tmp_path: Path, suffix: str) -> None:
    save_expert(make("whole"), tmp_path)
    save_expert(make("half"), tmp_path)
    (tmp_path / f"half{suffix}").unlink()
    with pytest.raises(ExpertError, match=r"half.*(no such file|complete metadata)"):
        ExpertStream.from_folder(tmp_path)


def test_cards_are_checked_at_once_and_weights_when_loaded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_expert(make(name), tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    stream = ExpertStream.from_folder(tmp_path)
    assert stream[0].name == "a"
    with pytest.raises(ExpertError, match=r"b\.safetensors"):
        list(stream)
    card = json.loads((tmp_path / "b.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps({**card, "classes": []}))
    with pytest.raises(ExpertError, match=r"b\.json"):
        ExpertStream.from_folder(tmp_path)


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
    with pytest.raises(TypeError, match=r"OpenStream.* has no len"):
        len(again)


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
    """The same bits with dropout in the student, whether experts come from memory or are read during its training."""
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
