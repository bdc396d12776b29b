"""A diagnosis with data: the accuracy of the targets that a student learned to predict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from exml.baselines import EnsembleAverage, MinEntropy
from exml.core.errors import BaselineError
from exml.core.expert import Expert
from exml.core.rng import derive_seed, make_generator
from exml.core.samples import Samples, inference_batch_size
from exml.core.shapes import Images, Labels, Logits, State
from exml.core.targets import Target
from exml.engine import Teachers, frozen
from exml.engine.forward import teacher_logits
from exml.experts import ExpertStream
from exml.learning.checkpoint import RunState
from exml.learning.starts import Starts
from exml.learning.strategy import Strategy
from exml.protocols import Predictor
from exml.runs.evaluation import ENSEMBLES, baseline_result, evaluate, evaluate_together
from exml.runs.result import TargetAudit
from exml.scenarios import Scenario

ALL_UNITS: dict[str, EnsembleAverage | MinEntropy] = {
    "mean of logits": EnsembleAverage(),
    "mean of probabilities of all units": EnsembleAverage("probabilities"),
    "most certain expert over all units": MinEntropy(),
}
LEAST_GAP = 0.01
"""Where the oracle is less than this above the best ensemble, there is no gap to recover."""


@attrs.frozen
class References:
    """What the experts of a scenario reach without a student.

    Args:
        name: of the best ensemble.
        ensemble: its stream accuracy.
        oracle: the stream accuracy of the responsible experts; None if they are unknown.
    """

    name: str
    ensemble: float
    oracle: float | None


def references(experts: ExpertStream, scenario: Scenario, device: torch.device) -> References:
    """The best ensemble of a scenario's experts, with one forward pass of each expert per image, and the oracle."""
    ensembles = ENSEMBLES | ALL_UNITS

    def predict(images: Images, _tasks: Labels | None) -> Tensor:
        outputs = [teacher_logits(expert, images, scenario.classes) for expert in experts]
        return torch.stack([ensemble.combine(outputs) for ensemble in ensembles.values()])

    found = evaluate_together(predict, scenario, device=device)
    best, name = max((row.stream, name) for name, row in zip(ensembles, found, strict=True))
    return References(name, best, baseline_result("Oracle", experts, scenario, device).stream_accuracy)


def audit(
    strategy: Strategy,
    experts: ExpertStream,
    scenario: Scenario,
    student: float,
    known: References,
    *,
    seed: int,
    device: torch.device,
    start: State | None = None,
) -> TargetAudit:
    """Evaluate the last target of a strategy on the test images of a scenario.

    Args:
        strategy: of the student.
        experts: of the scenario, all that the student learned from, in order.
        scenario: provides the test sets.
        student: its stream accuracy.
        known: what :func:`references` returned.
        seed: of the learner.
        device: where to run the experts.
        start: of the learner; see :attr:`exml.Learner.start`.
    """
    began = time.perf_counter()
    predict = target_predictor(strategy, experts, scenario.classes, seed, tasks=scenario.tasks, start=start)
    target, reason = None, None
    try:
        target = evaluate(predict, scenario, device=device).stream
    except BaselineError as error:
        reason = f"it needs {error.expected}, and there is {error.got}"
    gap = 0.0 if known.oracle is None else known.oracle - known.ensemble
    return TargetAudit(
        target=target,
        reason=reason,
        student=student,
        best_ensemble=known.name,
        ensemble=known.ensemble,
        oracle=known.oracle,
        recovered_gap=(student - known.ensemble) / gap if gap >= LEAST_GAP else None,
        seconds=time.perf_counter() - began,
    )


def target_predictor(
    strategy: Strategy,
    experts: ExpertStream,
    classes: int,
    seed: int,
    *,
    tasks: Sequence[Sequence[int]] | None = None,
    start: State | None = None,
) -> Predictor:
    """A predictor whose scores are the target that a learner would have for the images in the last experience.

    The target of each experience takes the place of the student that learned it, so the predictor follows all experts
    through calibration, normalizer and combiner, one at a time. The images are shuffled, since a combiner may use means
    over a mini-batch. Classes without a target score minus infinity.

    Args:
        strategy: of the learner.
        experts: in the order of the learner.
        classes: number of outputs of the student.
        seed: of the learner.
        tasks: the class ids of each task label, which the predictor then gets for every image.
        start: of the learner.

    Raises:
        BaselineError: in a call, if the combiner reads the labels of generated images, which others do not have.
    """

    @torch.no_grad()
    def predict(images: Images, told: Labels | None) -> Logits:
        order = torch.randperm(len(images), generator=make_generator("cpu", seed, "audit")).to(images.device)
        told = torch.full_like(order, -1) if told is None else told.to(images.device)
        options = [[0]] if tasks is None else tasks
        state, before = RunState(), images.new_zeros(len(images), classes)
        defined = torch.zeros_like(before, dtype=torch.bool)
        starts = Starts()
        if start is None and len(experts) > 1 and strategy.calibration is not None:
            starts.preview(partial(experts.__getitem__, 1))  # as Learner does
        for number, expert in enumerate(experts, 1):
            home, expert = expert.device, expert.to(images.device)
            if strategy.student == "first-expert" and number == 1 and strategy.calibration is None:
                copied = teacher_logits(expert, images, classes)
                before, defined = copied.logits, copied.known.repeat(len(images), 1)
            else:
                teachers = _teachers(strategy, expert, seed, classes, state, start or starts.weights() or None)
                if tasks is None:
                    options = [sorted({*state.known, *expert.classes})]
                after = torch.zeros_like(before), torch.zeros_like(defined)
                with frozen(teachers.expert.module):
                    _require_unread(teachers, images[:1], told[:1], before[:1], options)
                    for rows in order.split(inference_batch_size(images.shape[1:])):
                        target = _target(teachers, images[rows], told[rows], before[rows], _firsts(told[rows], options))
                        after[0][rows], after[1][rows] = target.logits, target.defined & target.candidates
                before, defined = after
            if start is None and strategy.calibration is not None:
                starts.note(expert)
            state.finish(expert, None)
            expert.to(home)
            del expert  # frees memory before the next one is loaded
        return before.masked_fill(~defined, -torch.inf)

    return predict


def _teachers(
    strategy: Strategy, expert: Expert, seed: int, classes: int, state: RunState, start: State | None
) -> Teachers:
    """The teachers of an experience, as :class:`exml.Learner` makes them; the previous student returns nothing."""
    if strategy.calibration is not None:
        expert = strategy.calibration(expert, derive_seed(seed, "calibration"), start)
    previous = state.previous(nn.Module(), classes, expert.device) if state.experience else None
    return Teachers(previous, expert, strategy.normalizer, strategy.combiner, classes)


def _target(teachers: Teachers, images: Images, told: Labels, before: Logits, labels: Labels) -> Target:
    """The target of a mini-batch, where the previous student returns the targets ``before``."""
    if teachers.previous is not None:
        teachers = attrs.evolve(teachers, previous=attrs.evolve(teachers.previous, module=_Recalled(before)))
    return teachers.target(Samples(images, labels, told, torch.zeros_like(labels)))


def _firsts(told: Labels, options: Sequence[Sequence[int]]) -> Labels:
    """A label that each image could have: the first class of its task, or the first of all."""
    return torch.tensor([classes[0] for classes in options], device=told.device)[told.clamp_min(0)]


def _require_unread(
    teachers: Teachers, images: Images, told: Labels, before: Logits, options: Sequence[Sequence[int]]
) -> None:
    """Raise a BaselineError if the target of an image depends on its label."""
    possible = options[max(int(told[0]), 0)]
    targets = [_target(teachers, images, told, before, torch.full_like(told, label)) for label in possible]
    if any(not torch.equal(each.logits, targets[0].logits) for each in targets):
        expected, got = "a combiner that does not read labels", type(teachers.combiner).__name__
        raise BaselineError(expected=expected, got=got, remedy="audit a strategy with another combiner")


class _Recalled(nn.Module):
    """A previous student that returns given logits."""

    def __init__(self, logits: Logits) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, _images: Images) -> Logits:
        return self._logits
