"""Accuracies of students and baselines on a scenario (Eq. 2), and forgetting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import attrs
import torch
from torch import Tensor, nn

from exml.baselines import EnsembleAverage, MinEntropy, Oracle, ParameterAverage
from exml.core.errors import BaselineError, NonFiniteError, ShapeError
from exml.core.outputs import logits_of
from exml.core.ranks import ALONE, Ranks
from exml.core.samples import Samples, inference_batch_size
from exml.core.shapes import Images, Labels, Logits
from exml.engine import frozen
from exml.experts import ExpertStream
from exml.protocols import Baseline, Predictor
from exml.runs.result import BaselineResult
from exml.scenarios import Scenario

CHUNK = 2**26
"""Floating-point values of test images in memory at a time (256 MiB); baselines load each expert once per chunk."""
BASELINES: dict[str, Baseline] = {
    "Param. Avg.": ParameterAverage(),
    "Ensemble Avg. (logits)": EnsembleAverage(),
    "Ensemble Avg. (probs)": EnsembleAverage("probabilities"),
    "Min. Entropy": MinEntropy(),
    "Oracle": Oracle(),
}
"""By the paper's names, in the order of its Table 2, with the oracle last as the upper bound."""

ENSEMBLES: dict[str, EnsembleAverage | MinEntropy] = {
    "mean of centered logits": EnsembleAverage("centered", "known"),
    "mean of probabilities": EnsembleAverage("probabilities", "known"),
    "most certain expert": MinEntropy("known"),
}
"""The ensembles that a student is compared with, over the classes that each expert knows."""


@attrs.frozen
class Evaluation:
    """Accuracies on the test sets of a scenario's experiences.

    Args:
        accuracies: of each experience, 0 to 1.
        sizes: number of test images of each.

    >>> from exml.runs.evaluation import Evaluation
    >>> evaluation = Evaluation((1.0, 0.5), (30, 10))
    >>> evaluation.stream, evaluation.stream_until(1)
    (0.875, 1.0)
    """

    accuracies: tuple[float, ...] = attrs.field(converter=tuple)
    sizes: tuple[int, ...] = attrs.field(converter=tuple)

    @property
    def stream(self) -> float:
        """Eq. 2 with the 0/1 loss, (1 / Σ_i n_i) Σ_i n_i a_i, which is the mean over all test images."""
        return self.stream_until(len(self.sizes))

    def stream_until(self, experience: int) -> float:
        """The stream accuracy over the experiences 1 to ``experience``."""
        pairs = list(zip(self.accuracies, self.sizes, strict=True))[:experience]
        return math.fsum(a * n for a, n in pairs) / sum(n for _, n in pairs)


def student_predictor(student: nn.Module) -> Predictor:
    """A predictor that runs a student in evaluation mode, on the student's device, on images in pixel units.

    >>> import torch
    >>> from exml.runs.evaluation import student_predictor
    >>> student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> student_predictor(student)(torch.zeros(2, 1, 2, 2), None).shape
    torch.Size([2, 3])
    """

    @torch.no_grad()
    def predict(images: Images, _tasks: Labels | None) -> Logits:
        device = next((parameter.device for parameter in student.parameters()), images.device)
        with frozen(student):
            # A copy, since the student may write to its input.
            batches = images.split(inference_batch_size(images.shape[1:]))
            parts = [logits_of(student(batch.to(device, copy=True))) for batch in batches]
        return torch.cat(parts).to(images.device)

    return predict


def within_tasks(predict: Predictor, tasks: Sequence[Sequence[int]]) -> Predictor:
    """A predictor that gets the task of each image; classes of other tasks score minus infinity.

    ``tasks`` holds the global class ids of each task label; see :attr:`exml.scenarios.Scenario.tasks`.

    >>> import torch
    >>> from exml.runs.evaluation import within_tasks
    >>> predict = within_tasks(lambda images, tasks: torch.ones(len(images), 4), ((0, 2), (1, 3)))
    >>> predict(torch.zeros(2, 1, 1, 1), torch.tensor([1, 0]))
    tensor([[-inf, 1., -inf, 1.],
            [1., -inf, 1., -inf]])
    """

    def restricted(images: Images, labels: Labels | None) -> Logits:
        return _restricted(predict(images, labels), labels, tasks)

    return restricted


def _restricted(scores: Tensor, labels: Labels | None, tasks: Sequence[Sequence[int]]) -> Tensor:
    """Scores ``(..., batch, classes)`` with minus infinity for the classes of other tasks."""
    found: list[int] = [] if labels is None else labels.unique().tolist()
    if labels is None or (found and not 0 <= found[0] <= found[-1] < len(tasks)):
        raise ShapeError(
            expected=f"a task label from 0 to {len(tasks) - 1} for every image",
            got="none" if labels is None else str(found),
            remedy="pass the task labels of the scenario",
        )
    mask = torch.zeros(len(tasks), scores.shape[-1], dtype=torch.bool)
    for task, classes in enumerate(tasks):
        mask[task, list(classes)] = True
    return scores.masked_fill(~mask.to(scores.device)[labels.to(scores.device)], -torch.inf)


def accuracy(predict: Predictor, samples: Samples, tasks: Labels | None = None) -> float:
    """The fraction of correctly classified images. An image whose scores are all minus infinity counts as wrong.

    >>> import exml, torch
    >>> from exml.runs.evaluation import accuracy
    >>> samples = exml.Samples.of(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 1, 1]))
    >>> accuracy(lambda images, tasks: torch.tensor([[0.0, 1.0]]).expand(len(images), 2), samples)
    0.75
    """
    return float(_hits(predict, samples, tasks).double().mean())


def evaluate(
    predict: Predictor, scenario: Scenario, *, device: torch.device | str = "cpu", tell_experience: bool = False
) -> Evaluation:
    """Accuracies on the test set of every experience, in as few calls of the predictor as memory allows.

    In a scenario with tasks, the predictor gets the task labels, and scores of classes of other tasks do not count.

    Args:
        predict: returns scores over all classes.
        scenario: provides the test sets.
        device: of the images; baselines run there.
        tell_experience: in a scenario without tasks, pass the predictor the experience minus one in place of a task
            label. Only the oracle may use it.

    Raises:
        NonFiniteError: a score is NaN.
    """

    def one(images: Images, tasks: Labels | None) -> Tensor:
        return predict(images, tasks)[None]

    return evaluate_together(one, scenario, device=device, tell_experience=tell_experience)[0]


def evaluate_together(
    predict: Callable[[Images, Labels | None], Tensor],
    scenario: Scenario,
    *,
    device: torch.device | str = "cpu",
    tell_experience: bool = False,
) -> list[Evaluation]:
    """:func:`evaluate` for several predictors in one, whose scores are ``(predictors, batch, classes)``."""
    tests = [experience.test for experience in scenario.experiences]
    once = {id(test): test for test in tests}  # experiences may share a test set
    tasks = scenario.tasks

    def scores(images: Images, labels: Labels | None, /) -> Tensor:
        found = predict(images, labels)
        return found if tasks is None else _restricted(found, labels, tasks)

    parts: list[Tensor] = []
    for chunk in _chunks(list(once.values())):
        here = chunk.to(device)
        told = here.tasks if scenario.tasks is not None else here.experiences - 1 if tell_experience else None
        parts.append(_hits(scores, here, told).cpu())
    hits = torch.cat(parts, -1).split([len(test) for test in once.values()], -1)
    accuracies = {key: part.double().mean(-1).tolist() for key, part in zip(once, hits, strict=True)}
    rows = zip(*(accuracies[id(test)] for test in tests), strict=True)
    return [Evaluation(row, [len(test) for test in tests]) for row in rows]


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


def baseline_result(name: str, experts: ExpertStream, scenario: Scenario, device: torch.device) -> BaselineResult:
    """The accuracies of one of the :data:`BASELINES`, or the reason why it does not apply (as in Tables 2 and 3)."""
    baseline = BASELINES[name]
    if baseline.needs_experience and scenario.shared_test:
        reason = "the experiences share one test set, so no expert is the right one"
    elif not baseline.needs_experience and len(scenario.experiences) == 1:
        reason = "there is only one expert, nothing to combine"
    else:
        try:
            found = evaluate_baseline(baseline, experts, scenario, device=device)
            accuracies, stream = found.accuracies, found.stream
            return BaselineResult(name=name, ex_model=baseline.ex_model, accuracy=accuracies, stream_accuracy=stream)
        except BaselineError as error:
            reason = f"it needs {error.expected}, and there is {error.got}"
    return BaselineResult(name=name, ex_model=baseline.ex_model, reason=reason)


def forgetting(accuracies: Sequence[Sequence[float]], /) -> float | None:
    """How much of the earlier experiences was lost in the end; None after a single experience.

    The mean over the experiences j < k of max_{i<k} a_ij - a_kj, where k is the last row (the forgetting measure of
    Chaudhry et al. 2018). It is negative if later experts improved earlier classes.

    Args:
        accuracies: the accuracy matrix; row i, column j is the accuracy on experience j after learning from expert i.

    >>> from exml.runs.evaluation import forgetting
    >>> forgetting([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.75, 0.5, 1.0]])
    0.375
    """
    if len(accuracies) < 2:
        return None
    earlier = torch.tensor(accuracies, dtype=torch.float64)[:, : len(accuracies) - 1]
    return float((earlier[:-1].max(0).values - earlier[-1]).mean())


def _hits(predict: Callable[[Images, Labels | None], Tensor], samples: Samples, tasks: Labels | None) -> Tensor:
    """Whether each image is classified correctly, for each predictor whose scores are stacked."""
    if not len(samples):
        raise ShapeError(expected="at least one image", got="none", remedy="provide a test set that is not empty")
    hits: list[Tensor] = []
    size = _chunk_size(samples)
    for first in range(0, len(samples), size):
        rows = slice(first, first + size)
        scores = predict(samples.pixels(rows), None if tasks is None else tasks[rows])
        if bool(scores.isnan().any()):
            raise NonFiniteError(expected="scores without NaN", got="NaN", remedy="look for NaN in the weights")
        highest, classes = scores.max(-1)
        classes = classes.masked_fill(highest == -torch.inf, -1).to(samples.labels.device)
        hits.append(classes == samples.labels[rows])
    return torch.cat(hits, -1)


def _chunks(parts: Sequence[Samples]) -> Iterator[Samples]:
    """The rows of all parts, in order, in chunks that fit into memory as floating-point images."""
    size, begins = _chunk_size(parts[0]), list(accumulate(map(len, parts), initial=0))
    for first in range(0, max(begins[-1], 1), size):
        pieces = [
            part[max(first - begin, 0) : max(first + size - begin, 0)]
            for part, begin in zip(parts, begins, strict=False)
        ]
        yield Samples.concat([piece for piece in pieces if len(piece)] or pieces)


def _chunk_size(samples: Samples) -> int:
    return max(CHUNK // max(math.prod(samples.images.shape[1:]), 1), 1)
