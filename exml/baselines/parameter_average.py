"""One model with the mean of the experts' weights (Sec. 5, "Param. Avg.")."""

from __future__ import annotations

import copy

import attrs
import torch
from torch import Tensor

from exml.baselines.ensembles import require_experts
from exml.core.errors import BaselineError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.engine.forward import teacher_logits
from exml.protocols import Experts, Predictor


@component
@attrs.frozen
class ParameterAverage:
    """The mean of all parameters and floating buffers (batch-norm statistics too), θ = (1/n) Σ_i θ_i^S.

    The sum is in float64; integer buffers are those of the first expert. The experts must share one architecture, one
    meaning of the output units and one normalization. The average is useful only if they also started from the same
    weights, which cannot be checked. A class without a unit scores minus infinity.

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
    require_experts(experts)
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
