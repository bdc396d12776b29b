"""The answer of the expert that is least uncertain (Sec. 5, "Min. Entropy")."""

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
class MinEntropy:
    """The probabilities of expert j* = argmin_j -Σ_i p_i^j log p_i^j, for each image; the first of equals.

    The entropy is in nats and over an expert's own units, so one with fewer units has less to be uncertain of, and one
    with a single unit is always certain. A class that the chosen expert has no unit for scores 0; one that no expert
    has a unit for scores minus infinity.

    Args:
        units: which units the probabilities are over: all that name a class, or those of the classes that the expert
            was trained on.

    >>> from exml.experts import Expert
    >>> def constant(logits, classes):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head.load_state_dict({"1.weight": torch.zeros(len(logits), 1), "1.bias": torch.tensor(logits)})
    ...     return Expert(head, classes, (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([3.0, 1.0], (0, 1)), constant([0.0, 999.0], (1, 2))])
    >>> MinEntropy()(stream, 4)(torch.zeros(1, 1, 1, 1), None)
    tensor([[0., 0., 1., -inf]])
    """

    units: Literal["present", "known"] = attrs.field(default="present", validator=one_of("present", "known"))

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor that asks every expert of the stream anew in each call; it needs no task labels.

        Raises:
            StreamError: when the stream is empty.
        """
        if not len(experts):
            raise StreamError(expected="at least one expert", got="an empty stream", remedy="give a stream of experts")

        def predict(images: Images, _tasks: Labels | None) -> Logits:
            best = images.new_zeros(len(images), classes)
            least = images.new_full((len(images),), torch.inf)
            answered = torch.zeros(classes, dtype=torch.bool, device=images.device)
            for expert in experts:
                said = ask(expert, images, classes)
                mask = said.present if self.units == "present" else said.known
                probabilities = said.logits.masked_fill(~mask, -torch.inf).softmax(1)
                entropy = torch.special.entr(probabilities).sum(1)  # 0 log 0 = 0
                surer = entropy < least
                best = torch.where(surer[:, None], probabilities, best)
                least = torch.where(surer, entropy, least)
                answered |= mask
                del expert, said  # before the next one is loaded
            return best.masked_fill(~answered, -torch.inf)

        return predict
