"""Accuracies against scikit-learn and torchmetrics, stream accuracy and forgetting against their formulas."""

from __future__ import annotations

import copy
import inspect
import math
from fractions import Fraction
from typing import Any, TypeAlias

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from exml import scenarios
from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage
from exml.core.errors import BaselineError, NonFiniteError, ShapeError
from exml.core.samples import Samples
from exml.experts import ExpertStream, ExpertTraining
from exml.runs.evaluation import (
    Evaluation,
    accuracy,
    evaluate,
    evaluate_baseline,
    evaluate_student,
    forgetting,
    student_predictor,
    within_tasks,
)

SHAPE = (1, 3, 3)


def make(labels: list[int], task: int | None = None, experience: int = 0) -> Samples:
    return Samples.of(torch.rand(len(labels), *SHAPE), torch.tensor(labels), task=task, experience=experience)


def table(scores: Tensor) -> Any:
    """A predictor with known scores."""
    return lambda images, tasks: scores


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_accuracy_is_scikit_learns_and_torchmetrics(labels: list[int], seed: int) -> None:
    samples = make(labels)
    scores = torch.rand(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    expected = accuracy_score(labels, scores.argmax(1))
    assert accuracy(table(scores), samples) == pytest.approx(expected, abs=1e-15)
    theirs = multiclass_accuracy(scores, samples.labels, num_classes=5, average="micro")
    assert accuracy(table(scores), samples) == pytest.approx(float(theirs), abs=1e-7)


def test_a_row_without_logits_is_never_right() -> None:
    """argmax of a row of minus infinity is class 0, by chance the right one."""
    scores = torch.tensor([[-math.inf, -math.inf], [1.0, -math.inf]])
    assert accuracy(table(scores), make([0, 0])) == 0.5


def test_nan_and_emptiness_are_typed_errors() -> None:
    with pytest.raises(NonFiniteError):
        accuracy(table(torch.tensor([[0.0, math.nan]])), make([0]))
    with pytest.raises(ShapeError, match="at least one image"):
        accuracy(table(torch.zeros(0, 2)), make([0])[:0])


@given(parts=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=6), data=st.data())
def test_stream_accuracy_is_the_share_of_all_test_images(parts: list[tuple[int, int]], data: st.DataObject) -> None:
    parts = [(size, min(size, right)) for size, right in parts]
    evaluation = Evaluation([right / size for size, right in parts], [size for size, _ in parts])
    assert evaluation.stream == pytest.approx(float(Fraction(sum(r for _, r in parts), sum(s for s, _ in parts))))
    until = data.draw(st.integers(1, len(parts)))
    some = parts[:until]
    assert evaluation.stream_until(until) == pytest.approx(sum(r for _, r in some) / sum(s for s, _ in some))


@given(size=st.integers(1, 5), seed=st.integers(0, 50))
def test_forgetting_is_its_formula(size: int, seed: int) -> None:
    matrix = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = forgetting(matrix.tolist())
    if size == 1:
        assert found is None
        return
    rows = matrix.tolist()
    losses = [max(rows[i][j] for i in range(size - 1)) - rows[size - 1][j] for j in range(size - 1)]
    assert found == pytest.approx(math.fsum(losses) / (size - 1))


def test_a_stream_cut_short_forgets_only_what_it_learned() -> None:
    assert forgetting([[0.9, 0.1, 0.2], [0.6, 0.8, 0.9]]) == pytest.approx(0.3)


def test_a_student_runs_in_evaluation_mode_and_is_unchanged() -> None:
    student = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(9, 3))
    student[0].running_mean.fill_(0.5)
    images = torch.rand(1100, *SHAPE)
    before = copy.deepcopy(student.state_dict())
    reference = copy.deepcopy(student).eval()
    scores = student_predictor(student)(images, None)
    torch.testing.assert_close(scores, reference(images))
    assert not scores.requires_grad
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=10), seed=st.integers(0, 5))
def test_within_tasks_only_the_classes_of_the_images_task_count(labels: list[int], seed: int) -> None:
    tasks = ((0, 3), (1,), (2, 3, 4))
    scores = torch.rand(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    found = within_tasks(table(scores), tasks)(torch.zeros(len(labels), *SHAPE), torch.tensor(labels))
    for row, label in enumerate(labels):
        for column in range(6):
            assert float(found[row, column]) == (float(scores[row, column]) if column in tasks[label] else -math.inf)


@pytest.mark.parametrize("labels", [None, torch.tensor([0, -1]), torch.tensor([2, 0])])
def test_an_image_without_a_task_is_a_typed_error(labels: Tensor | None) -> None:
    predict = within_tasks(table(torch.zeros(2, 2)), ((0,), (1,)))
    with pytest.raises(ShapeError, match="0 to 1"):
        predict(torch.zeros(2, *SHAPE), labels)


class Spy:
    """A predictor of class 0 that records the task labels of each call."""

    def __init__(self) -> None:
        self.told: list[Tensor | None] = []

    def __call__(self, images: Tensor, tasks: Tensor | None) -> Tensor:
        self.told.append(tasks)
        return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 10).float()


@pytest.mark.parametrize("name", ["digits-joint", "digits-nc", "digits-mt", "digits-ni"])
@pytest.mark.parametrize("tell", [False, True])
def test_the_predictor_is_called_once_and_told_what_it_may_know(name: str, tell: bool) -> None:
    scenario = scenarios.load(name, seed=1)
    spy = Spy()
    found = evaluate(spy, scenario, tell_experience=tell)
    [told] = spy.told
    zero = [float((part.test.labels == 0).double().mean()) for part in scenario.experiences]
    if name == "digits-mt":  # within a task, the first of its own classes has the highest score
        zero = [0.5] * 5
    assert found.accuracies == pytest.approx(tuple(zero))
    assert found.sizes == tuple(len(part.test) for part in scenario.experiences)
    assert found.stream == pytest.approx(0.5 if name == "digits-mt" else 0.1)
    expected = {
        "digits-joint": [0] * 500 if tell else None,
        "digits-nc": [place for place in range(5) for _ in range(100)] if tell else None,
        "digits-mt": [place for place in range(5) for _ in range(100)],
        "digits-ni": [-1] * 500 if tell else None,
    }
    assert (None if told is None else told.tolist()) == expected[name]


Trained: TypeAlias = dict[str, tuple[scenarios.Scenario, ExpertStream]]


@pytest.fixture(scope="module")
def trained() -> Trained:
    found: Trained = {}
    for name in ("digits-nc", "digits-mt", "digits-ni"):
        scenario = attrs.evolve(scenarios.load(name), training=ExpertTraining(epochs=2, learning_rate=0.01))
        found[name] = scenario, scenario.train_experts(0)
    return found


@pytest.mark.parametrize("name", ["digits-nc", "digits-mt"])
def test_the_oracle_is_the_mean_of_the_experts_on_their_own_test_sets(trained: Trained, name: str) -> None:
    scenario, experts = trained[name]
    found = evaluate_baseline(Oracle(), experts, scenario)
    with torch.no_grad():
        expected = [
            accuracy_score(part.test.labels, expert.predicted_ids(part.test.images))
            for part, expert in zip(scenario.experiences, experts, strict=True)
        ]
    assert found.accuracies == pytest.approx(tuple(expected))
    assert min(found.accuracies) > 0.8


def test_the_oracle_does_not_apply_where_the_test_set_is_shared(trained: Trained) -> None:
    scenario, experts = trained["digits-ni"]
    with pytest.raises(BaselineError, match="omit the oracle"):
        evaluate_baseline(Oracle(), experts, scenario)


@pytest.mark.parametrize(
    "baseline", [EnsembleAverage(), EnsembleAverage(space="probabilities"), MinEntropy(), ParameterAverage()]
)
@pytest.mark.parametrize("name", ["digits-nc", "digits-mt", "digits-ni"])
def test_baselines_apply_to_every_scenario_and_are_better_than_chance_with_tasks(
    trained: Trained, name: str, baseline: Any
) -> None:
    scenario, experts = trained[name]
    found = evaluate_baseline(baseline, experts, scenario)
    assert len(found.accuracies) == 5
    assert found.stream > {"digits-nc": 0.05, "digits-mt": 0.5, "digits-ni": 0.1}[name]
    if name == "digits-ni":
        assert len(set(found.accuracies)) == 1


def test_a_student_is_evaluated_on_pixels_within_its_tasks() -> None:
    scenario = scenarios.load("digits-mt")
    student = scenario.make_student(0)
    found = evaluate_student(student, scenario)
    student.eval()
    for part, value in zip(scenario.experiences, found.accuracies, strict=True):
        with torch.no_grad():
            own = student.module((part.test.images - scenario.mean[0]) / scenario.std[0])[:, list(part.classes)]
        predicted = torch.tensor(part.classes)[own.argmax(1)]
        assert value == pytest.approx(accuracy_score(part.test.labels, predicted))


@pytest.mark.parametrize("chunk", [1, 9 * 7, 9 * 1000])
def test_test_sets_of_bytes_are_evaluated_in_chunks_across_experiences(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Seven images at a time, or one, or all: the same accuracies, with the right task label for each image."""
    monkeypatch.setitem(inspect.unwrap(evaluate).__globals__, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 5
    scenario = scenarios.multi_task(Samples.of(images, labels), Samples.of(images, labels), experiences=3)
    sizes: list[int] = []

    def predict(pixels: Tensor, tasks: Tensor | None) -> Tensor:
        assert pixels.is_floating_point()
        sizes.append(len(pixels))
        return torch.stack([torch.sin((column + 2) * 50 * pixels[:, 0, 0, 0]) for column in range(5)], 1)

    found = evaluate(predict, scenario)
    assert max(sizes) <= max(chunk // 9, 1)
    assert sum(sizes) == 40
    pixel = images[:, 0, 0, 0].double() / 255
    for experience, accuracy_of in zip(scenario.experiences, found.accuracies, strict=True):
        mine = torch.isin(labels, torch.tensor(experience.classes))
        scores = torch.stack([torch.sin((column + 2) * 50 * pixel[mine]) for column in experience.classes], 1)
        answers = torch.tensor(experience.classes)[scores.argmax(1)]
        assert accuracy_of == accuracy_score(labels[mine], answers)
    whole = Samples.of(images, labels)
    assert accuracy(predict, whole) == pytest.approx(
        accuracy_score(labels, predict(images.double() / 255, None).argmax(1))
    )
