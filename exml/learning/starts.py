"""What experts were trained from, as far as it is known or can be learned from the experts themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from exml.core.expert import Expert
from exml.core.shapes import State
from exml.engine import narrowing_weights, related


class Starts:
    """The mean weights of the narrowing layers of related experts: an estimate of their common start.

    Experts are compared with it by :func:`exml.engine.reader_of`, which ignores it for an expert that is not related.
    One layer is kept per architecture, which is small compared with a network.

    >>> import exml
    >>> from exml.learning.starts import Starts
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> starts = Starts()
    >>> starts.note(exml.Expert(net, (0, 1), (1, 8, 8)))
    >>> list(starts.weights())
    ['1.weight']
    """

    def __init__(self) -> None:
        self._means: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def weights(self) -> State:
        """The mean weights by their names."""
        return dict(self._means)

    def preview(self, load: Callable[[], Expert]) -> None:
        """Take the weights of the second expert of a stream, until the first is noted."""
        with suppress(Exception):  # its turn will come, and the error with it
            self._means = dict(narrowing_weights(load()))

    def note(self, expert: Expert) -> None:
        """Include an expert in the means, which replaces weights of a preview."""
        # A previewed expert must not be compared with itself when its turn comes.
        self._means = {name: mean for name, mean in self._means.items() if self._counts.get(name)}
        for name, weight in narrowing_weights(expert).items():
            count = self._counts.get(name, 0)
            if count:
                mean = self._means[name]
                if mean.shape != weight.shape or not related(weight, mean):
                    continue
                weight = torch.lerp(mean, weight.to(mean), 1 / (count + 1))
            self._means[name], self._counts[name] = weight, count + 1

    def state(self) -> State:
        """Tensors by name, for a checkpoint."""
        counts = {f"count.{name}": torch.tensor(self._counts.get(name, 0)) for name in self._means}
        return {**{f"mean.{name}": mean for name, mean in self._means.items()}, **counts}

    def restore(self, state: State) -> None:
        """The inverse of :meth:`state`; raises a KeyError if a count is missing."""
        means = {name.removeprefix("mean."): mean for name, mean in state.items() if name.startswith("mean.")}
        self._means, self._counts = means, {name: int(state[f"count.{name}"]) for name in means}
