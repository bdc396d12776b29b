"""Ensemble average, minimal entropy and oracle: the formulas image by image and class by class, in Python floats."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from exml.baselines import EnsembleAverage, MinEntropy, Oracle
from exml.core.errors import BaselineError, ExpertError, NonFiniteError, SettingError, StreamError
from exml.engine import forward
from exml.experts import Expert, ExpertStream

CLASSES = 7


def network(outputs: int, seed: int, hidden: int | None = None) -> nn.Module:
    """A network whose outputs are far from equal; with a hidden layer and batch norm, or without."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if hidden is None:
            net = nn.Sequential(nn.Flatten(), nn.Linear(8, outputs))
        else:
            net = nn.Sequential(
                nn.Conv2d(2, hidden, 2), nn.BatchNorm2d(hidden), nn.Flatten(), nn.Linear(hidden, outputs)
            )
        for parameter in net.parameters():
            parameter.data.mul_(3)
    return net


def heterogeneous() -> list[Expert]:
    """Other architectures, heads of full width and of own classes, other normalizations; no expert knows class 6."""
    return [
        Expert(network(6, 1), (0, 1), (2, 2, 2), outputs=range(6), mean=(0.5,), std=(0.04,), name="full"),
        Expert(network(3, 2, hidden=4), (4, 2, 1), (2, 2, 2), mean=(0.1, 0.9), std=(0.5, 2.0), name="own"),
        Expert(network(4, 3, hidden=2), (3,), (2, 2, 2), outputs=(None, 3, 0, 5), name="one"),
    ]


def rows(expert: Expert, images: Tensor, units: str) -> list[dict[int, float]]:
    """The logits of each image by class id."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (expert.mean, expert.std))
    logits = expert.module.eval()((images - mean) / std).tolist()
    wanted = expert.classes if units == "known" else [unit for unit in expert.outputs if unit is not None]
    return [
        {unit: row[place] for place, unit in enumerate(expert.outputs) if unit in wanted and unit is not None}
        for row in logits
    ]


def softmax(row: dict[int, float]) -> dict[int, float]:
    total = math.fsum(math.exp(value) for value in row.values())
    return {name: math.exp(value) / total for name, value in row.items()}


def centered(row: dict[int, float]) -> dict[int, float]:
    mean = math.fsum(row.values()) / len(row)
    return {name: value - mean for name, value in row.items()}


def entropy(row: dict[int, float]) -> float:
    return -math.fsum(value * math.log(value) for value in row.values() if value > 0)


def table(lines: list[dict[int, float]], empty: float) -> Tensor:
    return torch.tensor([[line.get(column, empty) for column in range(CLASSES)] for line in lines])


def images(count: int = 9) -> Tensor:
    return torch.rand(count, 2, 2, 2, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("units", ["present", "known"])
@pytest.mark.parametrize("space", ["logits", "centered", "probabilities"])
def test_mean_logits_are_over_experts_with_the_unit_and_mean_probabilities_over_all(space: str, units: str) -> None:
    experts = heterogeneous()
    scores = EnsembleAverage(space=space, units=units)(ExpertStream.from_experts(experts), CLASSES)(images(), None)
    transformed = {"logits": dict, "centered": centered, "probabilities": softmax}[space]
    outputs = [[transformed(row) for row in rows(expert, images(), units)] for expert in experts]
    lines: list[dict[int, float]] = []
    for found in zip(*outputs, strict=True):
        values = {name: [row[name] for row in found if name in row] for name in {name for row in found for name in row}}
        lines.append({name: math.fsum(v) / (3 if space == "probabilities" else len(v)) for name, v in values.items()})
    torch.testing.assert_close(scores, table(lines, -math.inf))
    if space == "probabilities":
        torch.testing.assert_close(scores.clamp(min=0).sum(1), torch.ones(9))


@pytest.mark.parametrize("units", ["present", "known"])
def test_the_least_entropy_decides(units: str) -> None:
    experts = heterogeneous()
    scores = MinEntropy(units=units)(ExpertStream.from_experts(experts), CLASSES)(images(40), None)
    outputs = [[softmax(row) for row in rows(expert, images(40), units)] for expert in experts]
    lines: list[dict[int, float]] = []
    chosen: set[int] = set()
    for found in zip(*outputs, strict=True):
        best = min(range(3), key=lambda place: entropy(found[place]))
        chosen.add(best)
        lines.append({**{name: 0.0 for row in found for name in row}, **found[best]})
    torch.testing.assert_close(scores, table(lines, -math.inf))
    # Known units: the expert with a single class is always certain. Present ones: more than one expert is chosen.
    assert chosen == {2} if units == "known" else len(chosen) > 1


def constant(logits: list[float], classes: tuple[int, ...]) -> Expert:
    head = nn.Sequential(nn.Flatten(), nn.Linear(8, len(logits)))
    head[1].weight.data.zero_()
    head[1].bias.data = torch.tensor(logits)
    return Expert(head, classes, (2, 2, 2))


def test_a_probability_of_zero_has_no_entropy() -> None:
    """exp(-2000) is 0: 0 log 0 must not be NaN, or the surest expert would never be chosen."""
    experts = [constant([0.0, 1.0], (0, 1)), constant([2000.0, 0.0], (2, 3))]
    scores = MinEntropy()(ExpertStream.from_experts(experts), 4)(images(2), None)
    assert scores.tolist() == [[0, 0, 1, 0]] * 2


def test_the_first_of_equal_entropies_wins() -> None:
    experts = [constant([0.0, 1.0], (0, 1)), constant([1.0, 0.0], (2, 3))]
    scores = MinEntropy()(ExpertStream.from_experts(experts), 4)(images(1), None)
    assert scores.argmax(1).tolist() == [1]


@given(places=st.lists(st.integers(0, 2), max_size=9))
def test_the_oracle_runs_the_responsible_expert_over_its_own_classes(places: list[int]) -> None:
    experts = heterogeneous()
    pixels = images(len(places))
    scores = Oracle()(ExpertStream.from_experts(experts), CLASSES)(pixels, torch.tensor(places, dtype=torch.int64))
    assert scores.shape == (len(places), CLASSES)
    for index, place in enumerate(places):
        [line] = [softmax(row) for row in rows(experts[place], pixels[index : index + 1], "known")]
        torch.testing.assert_close(scores[index : index + 1], table([line], -math.inf))


@pytest.mark.parametrize("tasks", [None, torch.tensor([-1, 0]), torch.tensor([0, 3])])
def test_the_oracle_needs_a_position_for_every_image(tasks: Tensor | None) -> None:
    predict = Oracle()(ExpertStream.from_experts(heterogeneous()), CLASSES)
    with pytest.raises(BaselineError, match="0 to 2"):
        predict(images(2), tasks)


def test_the_oracle_loads_only_responsible_experts() -> None:
    loaded: list[int] = []

    def load(place: int) -> Expert:
        loaded.append(place)
        return heterogeneous()[place]

    stream = ExpertStream([lambda place=place: load(place) for place in range(3)])
    Oracle()(stream, CLASSES)(images(4), torch.tensor([2, 0, 2, 2]))
    assert loaded == [0, 2]


ENSEMBLES: list[Callable[[], EnsembleAverage | MinEntropy]] = [
    EnsembleAverage,
    lambda: EnsembleAverage(space="probabilities"),
    MinEntropy,
]


@pytest.mark.parametrize("make", ENSEMBLES)
def test_one_expert_is_in_memory_at_a_time(make: Callable[[], EnsembleAverage | MinEntropy]) -> None:
    alive: list[weakref.ref[nn.Module]] = []
    most = 0

    def load() -> Expert:
        nonlocal most
        expert = heterogeneous()[1]
        alive.append(weakref.ref(expert.module))
        gc.collect()
        most = max(most, sum(module() is not None for module in alive))
        return expert

    make()(ExpertStream([load] * 6), CLASSES)(images(), None)
    assert len(alive) == 6
    assert most == 1


@pytest.mark.parametrize("make", ENSEMBLES)
def test_mini_batches_change_nothing(
    make: Callable[[], EnsembleAverage | MinEntropy], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = make()(ExpertStream.from_experts(heterogeneous()), CLASSES)
    whole = predict(images(), None)
    monkeypatch.setattr(forward, "inference_batch_size", lambda _: 4)
    torch.testing.assert_close(predict(images(), None), whole)


def test_experts_are_left_as_they_were() -> None:
    experts = heterogeneous()
    before = [{name: tensor.clone() for name, tensor in expert.module.state_dict().items()} for expert in experts]
    for expert in experts:
        expert.module.train()
    stream = ExpertStream.from_experts(experts)
    for make in ENSEMBLES:
        make()(stream, CLASSES)(images(), None)
    Oracle()(stream, CLASSES)(images(3), torch.tensor([0, 1, 2]))
    for expert, state in zip(experts, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in expert.module.state_dict().items())
        assert all(part.training for part in expert.module.modules())
        assert all(parameter.requires_grad for parameter in expert.module.parameters())


@pytest.mark.parametrize("make", ENSEMBLES)
def test_experts_that_cannot_run_are_typed_errors(make: Callable[[], EnsembleAverage | MinEntropy]) -> None:
    with pytest.raises(StreamError):
        make()(ExpertStream([]), CLASSES)
    with pytest.raises(ExpertError, match="class ids below 4"):
        make()(ExpertStream.from_experts(heterogeneous()), 4)(images(), None)
    broken = heterogeneous()[1]
    broken.module[3].bias.data[0] = math.nan
    with pytest.raises(NonFiniteError, match=r"3\.bias"):
        make()(ExpertStream.from_experts([broken]), CLASSES)(images(), None)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(EnsembleAverage, {"units": "all"}), (EnsembleAverage, {"space": "odds"}), (MinEntropy, {"units": "all"})],
)
def test_settings_out_of_range_are_typed_errors(kind: Callable[..., object], settings: dict[str, str]) -> None:
    with pytest.raises(SettingError):
        kind(**settings)
