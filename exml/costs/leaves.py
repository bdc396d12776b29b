"""The generators that a generator is made of, each of which is counted and timed by itself."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, cast

import attrs

from exml.core.registry import plays
from exml.generators import BufferedImages, DataImpression, Mixture, ModelInversion
from exml.protocols import Generator

_ITERATIONS, _BATCH = "iterations", "batch_size"


def leaves(generator: Generator) -> tuple[Generator, ...]:
    """The parts of a mixture, and what an inversion starts from beside the inversion itself.

    A generator from outside the package is one leaf, with all that it holds.

    >>> from exml.generators import GaussianNoise, ProceduralImages
    >>> leaves(Mixture((ModelInversion(start=ProceduralImages()), GaussianNoise()))) == (
    ...     ModelInversion(), ProceduralImages(), GaussianNoise())
    True
    """
    if isinstance(generator, Mixture):
        return tuple(leaf for part in generator.generators for leaf in leaves(part))
    name, inner = _inner(generator)
    return (generator,) if inner is None else (attrs.evolve(cast(Any, generator), **{name: None}), *leaves(inner))


def counts(generator: Generator, images: int, experience: int) -> tuple[int, ...]:
    """How many images each of the :func:`leaves` makes, if all of them make ``images`` in an experience (from 1).

    >>> from exml.generators import GaussianNoise
    >>> counts(Mixture((ModelInversion(start=GaussianNoise()), GaussianNoise()), weights=(3, 1)), 8, 1)
    (6, 6, 2)
    """
    if isinstance(generator, Mixture):
        totals = list(accumulate(generator.weights or (1.0,) * len(generator.generators)))
        ends = [round(images * total / totals[-1]) for total in totals]
        shares = [end - begin for begin, end in pairwise([0, *ends])]
        parts = zip(generator.generators, shares, strict=True)
        return tuple(count for part, share in parts for count in counts(part, share, experience))
    _, inner = _inner(generator)
    if inner is None:
        return (images,)
    if isinstance(generator, BufferedImages):  # one of the two, never both
        others = counts(inner, images if experience == 1 else 0, experience)
        return (0 if experience == 1 else images, *others)
    return (images, *counts(inner, images, experience))


def iterations_of(leaf: Generator) -> int:
    """How often it goes over each mini-batch: the largest of its own ``iterations`` and its parts'; 0 without any."""
    own = getattr(leaf, _ITERATIONS, 0)
    return max(own if isinstance(own, int) else 0, *(iterations_of(part) for part in _parts(leaf).values()), 0)


def batch_of(leaf: Generator, images: int) -> int:
    """How many images it goes over together: its ``batch_size`` if it has one, else all."""
    size = getattr(leaf, _BATCH, images)
    return min(size, images) if isinstance(size, int) else images


def shortened(leaf: Generator, iterations: int) -> Generator:
    """The same generator with so many iterations, and with its parts' in proportion.

    >>> shortened(ModelInversion(iterations=500), 2).iterations
    2
    """
    return _scaled(leaf, iterations / iterations_of(leaf)) if iterations_of(leaf) else leaf


def _scaled(leaf: Generator, factor: float) -> Generator:
    changes: dict[str, Any] = {}
    for path, part in _parts(leaf).items():
        name, place = path
        scaled = _scaled(part, factor)
        if place is None:
            changes[name] = scaled
        else:
            values = changes.get(name, getattr(leaf, name))
            changes[name] = (*values[:place], scaled, *values[place + 1 :])
    own = getattr(leaf, _ITERATIONS, None)
    if attrs.has(type(leaf)) and isinstance(own, int):
        changes[_ITERATIONS] = max(1, round(own * factor))
    return attrs.evolve(cast(Any, leaf), **changes) if changes else leaf


def _parts(leaf: Generator) -> dict[tuple[str, int | None], Generator]:
    """The generators in its fields, by field and place in it."""
    found: dict[tuple[str, int | None], Generator] = {}
    for field in attrs.fields(type(leaf)) if attrs.has(type(leaf)) else ():
        value = getattr(leaf, field.name)
        if isinstance(value, tuple):
            found |= {(field.name, at): part for at, part in enumerate(value) if plays(part, "generator")}
        elif plays(value, "generator"):
            found[field.name, None] = value
    return found


def _inner(generator: Generator) -> tuple[str, Generator | None]:
    """What it takes its first images from, and the name of that field."""
    if isinstance(generator, ModelInversion | DataImpression):
        return "start", generator.start
    return "first", generator.first if isinstance(generator, BufferedImages) else None
