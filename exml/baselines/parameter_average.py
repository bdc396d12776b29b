"""One model whose weights are the mean of the experts' (Sec. 5, "Param. Avg.")."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor

from exml.baselines._ask import ask
from exml.core.errors import BaselineError, StreamError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.protocols import Experts, Predictor


@component
@attrs.frozen
class ParameterAverage:
    """The mean of all parameters and floating buffers (batch-norm statistics too), θ = (1/n) Σ_i θ_i^S.

    Summed in float64. Whole-number buffers, such as the count of batches, are those of the first expert. It works only
    if the experts have one architecture, one meaning of the output units and one normalisation; and even then only if
    they started from the same weights, which nothing can check. A class without a unit scores minus infinity.

    >>> from exml.experts import Expert
    >>> def constant(logits):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head.load_state_dict({"1.weight": torch.zeros(len(logits), 1), "1.bias": torch.tensor(logits)})
    ...     return Expert(head, (0, 1), (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([3.0, 1.0]), constant([1.0, 2.0])])
    >>> ParameterAverage()(stream, 3)(torch.zeros(1, 1, 1, 1), None)
    tensor([[2.0000, 1.5000,   -inf]])
    """

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """Average them now, in one pass with two models in memory; the predictor needs neither experts nor task labels.

        Raises:
            StreamError: when the stream is empty.
            BaselineError: when two experts differ in architecture, output units, image shape, mean or std.
        """
        averaged = average(experts)

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            said = ask(averaged, images, classes)
            return said.logits.masked_fill(~said.present, -torch.inf)

        return predict


def average(experts: Experts) -> Expert:
    """The expert with the mean weights, and the classes of all."""
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
        del expert, state  # before the next one is loaded
    if first is None:
        raise StreamError(expected="at least one expert", got="an empty stream", remedy="give a stream of experts")
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
        expected=f"experts that differ in nothing but their weights: {expected}",
        got=f"{got} (expert {expert.name!r})",
        remedy="leave parameter averaging out: it needs one architecture, one head and one normalisation",
    )
