"""One model with the mean of the experts' weights (Sec. 5, "Param. Avg.")."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor

from exml.core.errors import BaselineError, StreamError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.engine.forward import teacher_logits
from exml.protocols import Experts, Predictor


@component
@attrs.frozen
class ParameterAverage:
    """The mean of all parameters and floating buffers (batch-norm statistics too), θ = (1/n) Σ_i θ_i^S.

    The sum is in float64. Integer buffers, such as the count of batches, are those of the first expert. The experts
    must share one architecture, one meaning of the output units and one normalization. The average is useful only if
    they also started from the same weights, which cannot be checked. A class without a unit scores minus infinity.

    >>> from exml.experts import Expert, ExpertStream
    >>> def constant(logits):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head[1].bias.data = torch.tensor(logits)
    ...     return Expert(head, (0, 1), (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([3.0, 1.0]), constant([1.0, 2.0])])
    >>> ParameterAverage()(stream, 3)(torch.zeros(1, 1, 1, 1), None)
    tensor([[2.0000, 1.5000,   -inf]])
    """

    ex_model = True
    needs_experience = False

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """Average the weights now, in one pass with two models in memory; the predictor ignores task labels.

        Raises:
            StreamError: when the stream is empty.
            BaselineError: when two experts differ in architecture, output units, image shape, mean or std.
        """
        averaged = _average(experts)

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            outputs = teacher_logits(averaged, images, classes)
            return outputs.logits.masked_fill(~outputs.present, -torch.inf)

        return predict


def _average(experts: Experts) -> Expert:
    """An expert with the mean weights and the classes of all."""
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
    if first is None:
        raise StreamError(expected="at least one expert", got="an empty stream", remedy="provide a stream of experts")
    mean = {name: tensor / len(experts) for name, tensor in total.items()}
    first.module.load_state_dict({**first.module.state_dict(), **mean})
    return attrs.evolve(first, classes=tuple(sorted(classes)), task=None)


def _require_same(first: Expert, other: Expert) -> None:
    shapes, others = (
        {name: tuple(tensor.shape) for name, tensor in expert.module.state_dict().items()} for expert in (first, other)
    )
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            _refuse(other, f"{name} {shapes.get(name, 'absent')}", f"{others.get(name, 'absent')}")
    for field in ("outputs", "image_shape", "mean", "std"):
        if getattr(first, field) != getattr(other, field):
            _refuse(other, f"{field} {getattr(first, field)}", f"{getattr(other, field)}")


def _refuse(expert: Expert, expected: str, got: str) -> None:
    raise BaselineError(
        expected=f"experts that differ only in their weights: {expected}",
        got=f"{got} (expert {expert.name!r})",
        remedy="omit parameter averaging: it needs one architecture, one head and one normalization",
    )
