"""The average of the experts' outputs (Sec. 5, "Ensemble Avg.")."""

from __future__ import annotations

from typing import Literal

import attrs
import torch

from exml.baselines._ask import ask
from exml.core.errors import StreamError
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.core.validators import one_of
from exml.protocols import Experts, Predictor


@component
@attrs.frozen
class EnsembleAverage:
    """Scores of class c: the mean of the experts' logits, or of their probabilities, for c.

    - ``"logits"``: the mean over those experts that have a unit for c.
    - ``"probabilities"``: the mean over all experts of the softmax over an expert's units; one that has no unit for c
      gives it probability 0. So the scores are a distribution.

    All heads and architectures go together. A class for which no expert has a unit scores minus infinity.

    Args:
        space: what is averaged.
        units: whose units count: all that name a class, or those of the classes that the expert was trained on.

    >>> from exml.experts import Expert
    >>> def constant(logits, classes):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head.load_state_dict({"1.weight": torch.zeros(len(logits), 1), "1.bias": torch.tensor(logits)})
    ...     return Expert(head, classes, (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([3.0, 1.0], (0, 1)), constant([2.0, 0.0], (1, 2))])
    >>> EnsembleAverage()(stream, 4)(torch.zeros(1, 1, 1, 1), None)
    tensor([[3.0000, 1.5000, 0.0000,   -inf]])
    """

    space: Literal["logits", "probabilities"] = attrs.field(
        default="logits", validator=one_of("logits", "probabilities")
    )
    units: Literal["present", "known"] = attrs.field(default="present", validator=one_of("present", "known"))

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor that asks every expert of the stream anew in each call; it needs no task labels.

        Raises:
            StreamError: when the stream is empty.
        """
        if not len(experts):
            raise StreamError(expected="at least one expert", got="an empty stream", remedy="give a stream of experts")

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            total = images.new_zeros(len(images), classes)
            answers = torch.zeros(classes, device=images.device)
            for expert in experts:
                said = ask(expert, images, classes)
                mask = said.present if self.units == "present" else said.known
                if self.space == "logits":
                    total += said.logits.masked_fill(~mask, 0)
                else:
                    total += said.logits.masked_fill(~mask, -torch.inf).softmax(1)
                answers += mask
                del expert, said  # before the next one is loaded
            count = answers.clamp(min=1) if self.space == "logits" else len(experts)
            return (total / count).masked_fill(answers == 0, -torch.inf)

        return predict
