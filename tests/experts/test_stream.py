"""Streams: lazy, repeatable, ordered; one expert in memory at a time."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
from torch import nn

from exml.core.errors import ExpertError, StreamError
from exml.experts import Expert, ExpertStream, save_expert
from exml.models import ConvNet


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
    experts = [make("a"), make("b")]
    stream = ExpertStream.from_experts(experts)
    assert [left is right for left, right in zip(stream, experts, strict=True)] == [True, True]
    assert len(ExpertStream.from_experts([])) == 0


def test_a_folder_comes_by_name_with_2_before_10(tmp_path: Path) -> None:
    for name in ("expert-10", "expert-2", "a", "expert-1b", "expert-1"):
        save_expert(make(name), tmp_path)
    stream = ExpertStream.from_folder(str(tmp_path))
    assert [expert.name for expert in stream] == ["a", "expert-1", "expert-1b", "expert-2", "expert-10"]


def test_a_folder_comes_in_the_order_of_its_cards(tmp_path: Path) -> None:
    for order, name in enumerate(("c", "a", "b")):
        save_expert(make(name), tmp_path, order=order)
    assert [expert.name for expert in ExpertStream.from_folder(tmp_path)] == ["c", "a", "b"]


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
    with pytest.raises(ExpertError, match=f"half{suffix}"):
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
