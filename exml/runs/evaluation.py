"""Accuracies of a student or a baseline on a scenario, Eq. 2, and forgetting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.errors import NonFiniteError, ShapeError
from exml.core.ranks import ALONE, Ranks
from exml.core.samples import Samples, inference_batch_size
from exml.core.shapes import Images, Labels, Logits
from exml.engine import frozen
from exml.experts import ExpertStream
from exml.protocols import Baseline, Predictor
from exml.scenarios import Scenario

CHUNK = 2**26
"""Floating-point values of test images in memory at a time (256 MiB); baselines load each expert once per chunk."""


@attrs.frozen
class Evaluation:
    """Accuracies on the test sets of a scenario's experiences.

    Args:
        accuracies: of each experience, 0 to 1.
        sizes: number of test images of each.

    >>> evaluation = Evaluation((1.0, 0.5), (30, 10))
    >>> evaluation.stream, evaluation.stream_until(1)
    (0.875, 1.0)
    """

    accuracies: tuple[float, ...] = attrs.field(converter=tuple)
    sizes: tuple[int, ...] = attrs.field(converter=tuple)

    @property
    def stream(self) -> float:
        """The stream accuracy, :func:`stream_accuracy` over all experiences."""
        return stream_accuracy(self.accuracies, self.sizes)

    def stream_until(self, experience: int) -> float:
        """The stream accuracy over the experiences 1 to ``experience``."""
        return stream_accuracy(self.accuracies[:experience], self.sizes[:experience])


def student_predictor(student: nn.Module, tasks: Sequence[Sequence[int]] | None = None) -> Predictor:
    """A predictor that runs a student on images in pixel units.

    It runs on the student's device in evaluation mode, and restores the student's modes.

    Args:
        student: takes images in pixel units and returns one logit per class.
        tasks: as in :func:`within_tasks`; None returns all scores.

    >>> student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> student_predictor(student)(torch.zeros(2, 1, 2, 2), None).shape
    torch.Size([2, 3])
    """

    @torch.no_grad()
    def predict(images: Images, _tasks: Labels | None) -> Logits:
        device = next((parameter.device for parameter in student.parameters()), images.device)
        with frozen(student):
            parts = [student(batch.to(device)) for batch in images.split(inference_batch_size(images.shape[1:]))]
        return torch.cat(parts).to(images.device)

    return predict if tasks is None else within_tasks(predict, tasks)


def within_tasks(predict: Predictor, tasks: Sequence[Sequence[int]]) -> Predictor:
    """A predictor that gets the task of each image; classes of other tasks score minus infinity.

    Args:
        predict: returns scores over all classes.
        tasks: the global class ids of each task label, as :attr:`exml.scenarios.Scenario.tasks` has them.

    >>> predict = within_tasks(lambda images, tasks: torch.ones(len(images), 4), ((0, 2), (1, 3)))
    >>> predict(torch.zeros(2, 1, 1, 1), torch.tensor([1, 0]))
    tensor([[-inf, 1., -inf, 1.],
            [1., -inf, 1., -inf]])
    """

    def restricted(images: Images, labels: Labels | None) -> Logits:
        found: list[int] = [] if labels is None else labels.unique().tolist()
        if labels is None or (found and not 0 <= found[0] <= found[-1] < len(tasks)):
            raise ShapeError(
                expected=f"a task label from 0 to {len(tasks) - 1} for every image",
                got="none" if labels is None else str(found),
                remedy="give the task labels of the scenario",
            )
        scores = predict(images, labels)
        mask = torch.zeros(len(tasks), scores.shape[1], dtype=torch.bool)
        for task, classes in enumerate(tasks):
            mask[task, list(classes)] = True
        return scores.masked_fill(~mask.to(scores.device)[labels.to(scores.device)], -torch.inf)

    return restricted


def predict_classes(predict: Predictor, images: Images, tasks: Labels | None = None) -> Labels:
    """The class with the highest score for each image; -1 if all scores are minus infinity.

    Raises:
        NonFiniteError: a score is NaN.
    """
    scores = predict(images, tasks)
    if bool(scores.isnan().any()):
        raise NonFiniteError(expected="scores that can be compared", got="NaN", remedy="look for NaN in the weights")
    highest, classes = scores.max(1)
    return classes.masked_fill(highest == -torch.inf, -1).to(images.device)


def accuracy(predict: Predictor, samples: Samples, tasks: Labels | None = None) -> float:
    """The fraction of correctly classified images.

    Args:
        predict: returns scores over all classes.
        samples: images and their classes, at least one.
        tasks: task labels for the predictor; see :func:`evaluate`.

    >>> samples = Samples.of(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 1]))
    >>> accuracy(lambda images, tasks: torch.tensor([[0.0, 1.0]]).expand(len(images), 2), samples)
    0.75
    """
    return float(_hits(predict, samples, tasks).double().mean())


def class_accuracies(
    predict: Predictor, samples: Samples, classes: int, tasks: Labels | None = None
) -> tuple[float, ...]:
    """The accuracy on the images of each class (its recall), NaN for a class without images.

    Args:
        predict: returns scores over all classes.
        samples: images and their classes, all below ``classes``.
        classes: how many there are.
        tasks: as in :func:`accuracy`.

    >>> samples = Samples.of(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 1]))
    >>> class_accuracies(lambda images, tasks: torch.tensor([[0.0, 1.0]]).expand(len(images), 2), samples, 3)
    (0.0, 1.0, nan)
    """
    hits = _hits(predict, samples, tasks)
    right = samples.labels[hits].bincount(minlength=classes).double()
    return tuple((right / samples.labels.bincount(minlength=classes)).tolist())


def evaluate(
    predict: Predictor, scenario: Scenario, *, device: torch.device | str = "cpu", tell_experience: bool = False
) -> Evaluation:
    """Accuracies on the test set of every experience, in as few calls of the predictor as memory allows.

    In a scenario with tasks the predictor gets the task labels, and scores of classes of other tasks do not count.

    Args:
        predict: returns scores over all classes.
        scenario: scenario with the test sets.
        device: device of the images; baselines run there.
        tell_experience: in a scenario without tasks, pass the predictor the experience minus one in place of a task
            label. Only the oracle may have it.

    Raises:
        NonFiniteError: a score is NaN.
    """
    tests = [experience.test for experience in scenario.experiences]
    once = {id(test): test for test in tests}  # experiences may share a test set
    _require_images(sum(map(len, once.values())))
    if scenario.tasks is not None:
        predict = within_tasks(predict, scenario.tasks)
    parts: list[Tensor] = []
    for chunk in _chunks(list(once.values())):
        here = chunk.to(device)
        told = here.tasks if scenario.tasks is not None else here.experiences - 1 if tell_experience else None
        parts.append(_hits(predict, here, told).cpu())
    hits = torch.cat(parts).split([len(test) for test in once.values()])
    accuracies = {key: float(part.double().mean()) for key, part in zip(once, hits, strict=True)}
    return Evaluation([accuracies[id(test)] for test in tests], [len(test) for test in tests])


def evaluate_student(student: nn.Module, scenario: Scenario, *, ranks: Ranks = ALONE) -> Evaluation:
    """:func:`evaluate` for a student, on its own device; ranks share the images, and all return the result."""
    predict = student_predictor(student)
    if ranks.alone:
        place = next((parameter.device for parameter in student.parameters()), torch.device("cpu"))
        return evaluate(predict, scenario, device=place)

    def together(images: Images, tasks: Labels | None) -> Logits:
        shard = ranks.shard(len(images))
        own = images[shard.rows] if shard.own else images[:1]  # a rank without images runs on one, too
        return shard.collect(predict(own, None)[: shard.own])

    return evaluate(together, scenario)


def evaluate_baseline(
    baseline: Baseline, experts: ExpertStream, scenario: Scenario, *, device: torch.device | str = "cpu"
) -> Evaluation:
    """:func:`evaluate` for a baseline on the scenario's experts; only the oracle gets the responsible expert.

    Raises:
        BaselineError: the baseline does not apply to these experts or to this scenario.
    """
    predict = baseline(experts, scenario.classes)
    return evaluate(predict, scenario, device=device, tell_experience=baseline.needs_experience)


def stream_accuracy(accuracies: Sequence[float], sizes: Sequence[int]) -> float:
    """Eq. 2 with the 0/1 loss, as an accuracy: (1 / Σ_i n_i) Σ_i n_i a_i, the mean over all test images.

    Args:
        accuracies: a_i, of each experience.
        sizes: n_i, the number of test images of each; at least one in total.

    >>> stream_accuracy([1.0, 0.5], [30, 10])
    0.875
    """
    return math.fsum(a * n for a, n in zip(accuracies, sizes, strict=True)) / sum(sizes)


def accuracy_matrix(evaluations: Sequence[Evaluation]) -> Float[Tensor, "learned experiences"]:
    """Row i, column j: the accuracy on the test set of experience j after learning from expert i; float64.

    Args:
        evaluations: one after each experience, in order, all on the same test sets.

    >>> accuracy_matrix([Evaluation((1.0, 0.0), (5, 5)), Evaluation((0.8, 0.9), (5, 5))])
    tensor([[1.0000, 0.0000],
            [0.8000, 0.9000]], dtype=torch.float64)
    """
    return torch.tensor([evaluation.accuracies for evaluation in evaluations], dtype=torch.float64)


def forgetting(matrix: Float[Tensor, "learned experiences"], /) -> float | None:
    """How much of the earlier experiences was lost in the end; None after a single experience.

    The mean over the experiences j < k of max_{i<k} a_ij - a_kj, k being the last row (the forgetting measure of
    Chaudhry et al. 2018). It is negative if later experts improved earlier classes.

    Args:
        matrix: see :func:`accuracy_matrix`.

    >>> forgetting(torch.tensor([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.75, 0.5, 1.0]]))
    0.375
    """
    if len(matrix) < 2:
        return None
    earlier = matrix[:, : len(matrix) - 1]
    return float((earlier[:-1].max(0).values - earlier[-1]).mean())


def _hits(predict: Predictor, samples: Samples, tasks: Labels | None) -> Tensor:
    _require_images(len(samples))
    size = _chunk_size(samples)
    parts = [slice(first, first + size) for first in range(0, len(samples), size)]
    hits = [
        predict_classes(predict, samples.pixels(rows), None if tasks is None else tasks[rows]) == samples.labels[rows]
        for rows in parts
    ]
    return torch.cat(hits)


def _chunks(parts: Sequence[Samples]) -> Iterator[Samples]:
    """The rows of all parts, in order, in chunks that fit into memory as floating-point images."""
    waiting: list[Samples] = []
    room = size = _chunk_size(parts[0])
    for part in parts:
        first = 0
        while first < len(part):
            piece = part[first : first + room]
            waiting.append(piece)
            first, room = first + len(piece), room - len(piece)
            if not room:
                yield Samples.concat(waiting)
                waiting, room = [], size
    if waiting:
        yield Samples.concat(waiting)


def _chunk_size(samples: Samples) -> int:
    return max(CHUNK // max(math.prod(samples.images.shape[1:]), 1), 1)


def _require_images(count: int) -> None:
    if not count:
        raise ShapeError(expected="at least one image", got="none", remedy="give a test set that is not empty")
