"""The baselines of Sec. 5: predictors made of the experts, without learning."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Literal

import attrs
import torch
from torch import Tensor

from exml.core.errors import BaselineError, StreamError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.core.targets import TeacherLogits
from exml.core.validators import one_of
from exml.engine import teacher_logits
from exml.protocols import Experts, Predictor

Space = Literal["logits", "centered", "probabilities"]
Units = Literal["present", "known"]


@component
@attrs.frozen
class EnsembleAverage:
    """The average of the experts' outputs (Sec. 5, "Ensemble Avg."); heads and architectures may differ.

    A class for which no expert has a unit scores minus infinity.

    Args:
        space: ``"logits"`` averages over the experts that have a unit for a class, and so does ``"centered"``, which
            first subtracts the mean of each expert's units; ``"probabilities"`` averages over all experts, each with a
            softmax over its units and probability 0 for other classes.
        units: which units count: all that name a class, or those of the classes that the expert was trained on.

    >>> import torch
    >>> from exml.baselines import EnsembleAverage
    >>> from exml.experts import Expert, ExpertStream
    >>> def constant(logits, classes):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head[1].bias.data = torch.tensor(logits)
    ...     return Expert(head, classes, (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([3.0, 1.0], (0, 1)), constant([2.0, 0.0], (1, 2))])
    >>> EnsembleAverage()(stream, 4)(torch.zeros(1, 1, 1, 1), None)
    tensor([[3.0000, 1.5000, 0.0000,   -inf]])
    """

    ex_model = False
    needs_experience = False
    space: Space = attrs.field(default="logits", validator=one_of("logits", "centered", "probabilities"))
    units: Units = attrs.field(default="present", validator=one_of("present", "known"))

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor that runs every expert of the stream in each call; raises a StreamError if there is none."""
        _require_experts(experts)

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            return self.combine(_outputs(experts, images, classes))

        return predict

    def combine(self, outputs: Iterable[TeacherLogits], /) -> Logits:
        """The scores ``(batch, classes)`` from the logits of one or more experts for the same images."""
        total = contributors = torch.zeros(())
        count = 0
        for output in outputs:
            mask = output.present if self.units == "present" else output.known
            if self.space == "probabilities":
                scores = output.logits.masked_fill(~mask, -torch.inf).softmax(1)
            else:
                scores = output.logits.masked_fill(~mask, 0)
            if self.space == "centered":
                scores = (scores - scores.sum(1, keepdim=True) / mask.sum()).masked_fill(~mask, 0)
            total, contributors, count = total.to(scores) + scores, contributors.to(scores) + mask, count + 1
        number = count if self.space == "probabilities" else contributors.clamp(min=1)
        return (total / number).masked_fill(contributors == 0, -torch.inf)


@component
@attrs.frozen
class MinEntropy:
    r"""The probabilities of the most certain expert for each image (Sec. 5).

    .. math:: j^* = \arg\min_j \left(-\sum_i p_i^j \log p_i^j\right)

    Ties go to the first expert. The entropy is in nats and over an expert's own units. A class without a unit in the
    chosen expert scores 0; one without a unit in any expert scores minus infinity.

    Args:
        units: the units of the softmax: all that name a class, or those of the classes that the expert was trained on.

    >>> import torch
    >>> from exml.baselines import MinEntropy
    >>> from exml.experts import Expert, ExpertStream
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    >>> stream = ExpertStream.from_experts([Expert(head, classes, (1, 1, 1)) for classes in ((0, 1), (1, 2))])
    >>> MinEntropy()(stream, 4)(torch.zeros(1, 1, 1, 1), None).isinf()
    tensor([[False, False, False,  True]])
    """

    ex_model = False
    needs_experience = False
    units: Units = attrs.field(default="present", validator=one_of("present", "known"))

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor that runs every expert of the stream in each call; raises a StreamError if there is none."""
        _require_experts(experts)

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            return self.combine(_outputs(experts, images, classes))

        return predict

    def combine(self, outputs: Iterable[TeacherLogits], /) -> Logits:
        """The scores ``(batch, classes)`` from the logits of one or more experts for the same images."""
        best, least, covered = torch.zeros(()), torch.tensor(torch.inf), torch.tensor(False)
        for output in outputs:
            mask = output.present if self.units == "present" else output.known
            probabilities = output.logits.masked_fill(~mask, -torch.inf).softmax(1)
            entropy = torch.special.entr(probabilities).sum(1)  # 0 log 0 = 0
            best, least = best.to(probabilities), least.to(probabilities)
            best = torch.where((entropy < least)[:, None], probabilities, best)
            least = torch.minimum(entropy, least)
            covered = covered.to(mask.device) | mask
        return best.masked_fill(~covered, -torch.inf)


@component
@attrs.frozen
class Oracle:
    """Runs only the expert that is responsible for an image (Sec. 5, "Oracle"): an upper bound.

    Scores are the softmax over the classes that this expert was trained on, and minus infinity for all others.

    >>> import torch
    >>> from exml.baselines import Oracle
    >>> from exml.experts import Expert, ExpertStream
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    >>> stream = ExpertStream.from_experts([Expert(head, classes, (1, 1, 1)) for classes in ((0, 1), (1, 2))])
    >>> Oracle()(stream, 3)(torch.zeros(1, 1, 1, 1), torch.tensor([1])).isinf()
    tensor([[ True, False, False]])
    """

    ex_model = False
    needs_experience = True

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor whose second argument is, for each image, the position (from 0) of its expert in the stream.

        In a scenario with tasks, these are the task labels t_i; elsewhere they are the experience minus one. The
        predictor raises a BaselineError if a position is missing or out of range.
        """

        def predict(images: Images, tasks: Labels | None) -> Logits:
            positions: list[int] = [] if tasks is None else tasks.unique().tolist()
            if tasks is None or not set(positions) <= set(range(len(experts))):
                raise BaselineError(
                    expected=f"for every image the position of its expert in the stream, 0 to {len(experts) - 1}",
                    got="no tasks" if tasks is None else f"{positions}",
                    remedy="omit the oracle where the responsible expert is unknown",
                )
            scores = images.new_full((len(images), classes), -torch.inf)
            for position in positions:
                own = tasks == position
                outputs = teacher_logits(experts[position], images[own], classes)
                known = outputs.logits.masked_fill(~outputs.known, -torch.inf).softmax(1)
                scores[own] = known.masked_fill(~outputs.known, -torch.inf)
            return scores

        return predict


@component
@attrs.frozen
class ParameterAverage:
    r"""The mean of all parameters and floating buffers (batch-norm statistics too).

    .. math:: \theta = \frac{1}{n} \sum_i \theta_i^S

    The sum is in float64; integer buffers are those of the first expert. The experts must share one architecture, one
    meaning of the output units and one normalization. The average is useful only if they also started from the same
    weights, which cannot be checked. A class without a unit scores minus infinity.

    >>> import torch
    >>> from exml.baselines import ParameterAverage
    >>> from exml.experts import Expert, ExpertStream
    >>> heads = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2)) for _ in range(2)]
    >>> stream = ExpertStream.from_experts([Expert(head, (0, 1), (1, 1, 1)) for head in heads])
    >>> scores = ParameterAverage()(stream, 3)(torch.zeros(1, 1, 1, 1), None)
    >>> torch.allclose(scores[0, :2], (heads[0][1].bias + heads[1][1].bias) / 2), scores[0, 2]
    (True, tensor(-inf))
    """

    ex_model = True
    needs_experience = False

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """Average the weights now, in one pass with two models in memory.

        Raises a StreamError if the stream is empty, and a BaselineError if two experts differ in architecture, output
        units, image shape, mean or std.
        """
        averaged = _average(experts)

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            outputs = teacher_logits(averaged, images, classes)
            return outputs.logits.masked_fill(~outputs.present, -torch.inf)

        return predict


def _average(experts: Experts) -> Expert:
    """An expert with the mean weights and the classes of all."""
    _require_experts(experts)
    first: Expert | None = None
    classes: set[int] = set()
    total: dict[str, Tensor] = {}
    for expert in experts:
        state = expert.module.state_dict()
        if first is None:
            first = attrs.evolve(expert, module=copy.deepcopy(expert.module), name="average")
            total = {name: tensor.cpu().double() for name, tensor in state.items() if tensor.is_floating_point()}
        else:
            _require_same(first, expert)
            for name, tensor in total.items():
                tensor += state[name].cpu()
        classes |= set(expert.classes)
        del expert, state  # free memory before the next expert is loaded
    assert first is not None
    mean = {name: tensor / len(experts) for name, tensor in total.items()}
    first.module.load_state_dict({**first.module.state_dict(), **mean})
    return attrs.evolve(first, classes=tuple(sorted(classes)), task=None)


def _require_same(first: Expert, other: Expert) -> None:
    ours, theirs = _traits(first), _traits(other)
    for name in {**ours, **theirs}:
        expected, got = ours.get(name, "absent"), theirs.get(name, "absent")
        if expected != got:
            raise BaselineError(
                expected=f"experts that differ only in their weights: {name} {expected}",
                got=f"{got} (expert {other.name!r})",
                remedy="omit parameter averaging: it needs one architecture, one head and one normalization",
            )


def _traits(expert: Expert) -> dict[str, object]:
    shapes = {name: tuple(tensor.shape) for name, tensor in expert.module.state_dict().items()}
    return {**shapes, **{name: getattr(expert, name) for name in ("outputs", "image_shape", "mean", "std")}}


def _outputs(experts: Experts, images: Images, classes: int) -> Iterator[TeacherLogits]:
    for expert in experts:
        outputs = teacher_logits(expert, images, classes)
        del expert  # frees memory before the next one is loaded
        yield outputs


def _require_experts(experts: Experts) -> None:
    if not len(experts):
        raise StreamError(expected="at least one expert", got="an empty stream", remedy="provide a stream of experts")
