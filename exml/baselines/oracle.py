"""The right expert for every image (Sec. 5, "Oracle")."""

from __future__ import annotations

import attrs
import torch

from exml.baselines._ask import ask
from exml.core.errors import BaselineError
from exml.core.registry import component
from exml.core.shapes import Images, Labels, Logits
from exml.protocols import Experts, Predictor


@component
@attrs.frozen
class Oracle:
    """Asks only the expert that is responsible for the image, and that only for its own classes: an upper bound.

    Scores are the softmax over the classes that this expert was trained on, minus infinity for all others.

    >>> from exml.experts import Expert
    >>> def constant(logits, classes):
    ...     head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, len(logits)))
    ...     head.load_state_dict({"1.weight": torch.zeros(len(logits), 1), "1.bias": torch.tensor(logits)})
    ...     return Expert(head, classes, (1, 1, 1))
    >>> stream = ExpertStream.from_experts([constant([9.0, 1.0], (0, 1)), constant([5.0, 5.0], (1, 2))])
    >>> Oracle()(stream, 3)(torch.zeros(1, 1, 1, 1), torch.tensor([1]))
    tensor([[  -inf, 0.5000, 0.5000]])
    """

    def __call__(self, experts: Experts, classes: int, /) -> Predictor:
        """A predictor whose second argument must be, for each image, the place (from 0) of its expert in the stream.

        In a scenario with tasks, these are the task labels t_i; elsewhere they are experience minus one. Only the
        experts that are responsible for an image are loaded.

        Raises:
            BaselineError: by the predictor, when it is not told of every image which expert is responsible. So it is
                in a scenario whose experiences share one test set (NI).
        """

        def predict(images: Images, tasks: Labels | None) -> Logits:
            places: list[int] = [] if tasks is None else tasks.unique().tolist()
            if tasks is None or (places and not 0 <= places[0] <= places[-1] < len(experts)):
                raise BaselineError(
                    expected=f"for every image the place of its expert in the stream, 0 to {len(experts) - 1}",
                    got="no tasks" if tasks is None else f"{places}",
                    remedy="leave the oracle out where nothing says which expert is responsible",
                )
            scores = images.new_full((len(images), classes), -torch.inf)
            for place in places:
                own = tasks == place
                said = ask(experts[place], images[own], classes)
                scores[own] = (
                    said.logits.masked_fill(~said.known, -torch.inf).softmax(1).masked_fill(~said.known, -torch.inf)
                )
            return scores

        return predict
