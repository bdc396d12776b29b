"""Mixtures: a generator made of generators."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise

import attrs
import torch

from exml.core.errors import SettingError
from exml.core.expert import Expert
from exml.core.registry import component
from exml.core.rng import derive_seed
from exml.core.samples import Samples
from exml.core.shapes import State
from exml.engine.inversion import NestedJournal, part_of
from exml.generators._common import check_size
from exml.protocols import STANDALONE, GenerationContext, Generator


@component
@attrs.frozen
class Mixture:
    """Split the samples among several generators, in their order; ``weights`` > 0 are relative shares.

    Soft targets are kept only if all generators provide them.

    >>> import exml, torch
    >>> from exml.generators import Mixture
    >>> from exml.generators import GaussianNoise
    >>> expert = exml.Expert(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), (3, 7), (1, 8, 8))
    >>> mixture = Mixture((GaussianNoise(1.0), GaussianNoise(0.0)), weights=(3, 1))
    >>> (mixture(expert, 8, 0).images.flatten(1).std(1) > 0).tolist()
    [True, True, True, True, True, True, False, False]
    """

    generators: tuple[Generator, ...] = attrs.field(converter=tuple)
    weights: tuple[float, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(tuple))

    def __attrs_post_init__(self) -> None:
        count = len(self.generators)
        fits = self.weights is None or (len(self.weights) == count and min(self.weights, default=0) > 0)
        if not count or not fits:
            raise SettingError(
                expected="one or more generators for Mixture, and a weight > 0 for each",
                got=f"{count} generators, weights {self.weights}",
                remedy="provide one weight per generator, or none",
            )

    @property
    def uses_priors(self) -> bool:
        """Whether one of the generators optimizes pixels."""
        return any(generator.uses_priors for generator in self.generators)

    @property
    def uses_real_data(self) -> bool:
        """Whether one of the generators does."""
        return any(generator.uses_real_data for generator in self.generators)

    def __call__(self, expert: Expert, size: int, seed: int, context: GenerationContext = STANDALONE, /) -> Samples:
        """Make ``size`` samples; a generator whose share rounds to nothing makes none."""
        check_size(size)
        totals = list(accumulate(self.weights or (1.0,) * len(self.generators)))
        ends = [round(size * total / totals[-1]) for total in totals]
        state = context.journal.restore()
        made, first = ([], 0) if state is None else _restored(state, expert.device)
        for index, (begin, end) in list(enumerate(pairwise([0, *ends])))[first:]:
            if begin == end:
                continue
            nested = part_of(state) if state is not None and index == first else None
            journal = NestedJournal(context.journal, begin, end, size, _keeper(made, index), nested)
            part = attrs.evolve(context, journal=journal)
            made = [*made, self.generators[index](expert, end - begin, derive_seed(seed, "mixture", index), part)]
            context.journal.record(end, size, _keeper(made, index + 1))
        return Samples.concat(made)


def _keeper(made: list[Samples], index: int) -> Callable[[], State]:
    def keep() -> State:
        parts = {f"{at}.{name}": tensor for at, part in enumerate(made) for name, tensor in part.state().items()}
        return {**parts, "made": torch.tensor(len(made)), "index": torch.tensor(index)}

    return keep


def _restored(state: State, device: torch.device) -> tuple[list[Samples], int]:
    made: list[Samples] = []
    for prefix in (f"{at}." for at in range(int(state["made"]))):
        fields = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        made.append(Samples.from_state(fields).to(device))
    return made, int(state["index"])
