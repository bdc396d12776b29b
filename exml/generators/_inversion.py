"""Inversion of more images than fit one mini-batch, shared by the generators that optimise pixels."""

from __future__ import annotations

import math

import attrs
import torch

from exml.core.expert import Expert
from exml.core.rng import derive_seed
from exml.core.shapes import Images, State
from exml.engine import inverter
from exml.engine.inversion import Finished, Objective
from exml.generators._common import check_images
from exml.generators._nested_journal import PartJournal, part_of
from exml.protocols import Augmentation, GenerationContext, Generator, NoJournal


def invert_all(
    expert: Expert,
    size: int,
    seed: int,
    context: GenerationContext,
    objective: Objective,
    *,
    start: Generator,
    iterations: int,
    learning_rate: float,
    batch_size: int,
    clamp: float | None,
    augmentation: Augmentation | None = None,
    finished: Finished | None = None,
) -> Images:
    """Invert ``size`` images in pixel units, one mini-batch after the other.

    ``objective`` and ``finished`` are given positions among all ``size`` images; ``augmentation`` goes before that of
    the context. A run killed while ``start`` makes its
    images makes them anew; after that all it needs is in its state.
    """
    state = context.journal.restore()
    if state is None:
        apart = attrs.evolve(context, journal=NoJournal())
        images = start(expert, size, derive_seed(seed, "start"), apart).images.clone()
        check_images(images, expert, f"{type(start).__name__}, the start of the inversion")
        first = 0
    else:
        images, first = state["images"].to(expert.device).clone(), int(state["batch"])
    batches = math.ceil(size / batch_size)
    with inverter(
        expert.module,
        expert.normalize(images[:2]),
        iterations=iterations,
        learning_rate=learning_rate,
        prior=context.prior,
        augmentation=context.augmentation if augmentation is None else augmentation,
        clamp=clamp,
        execution=context.execution,
        ranks=context.ranks,
    ) as invert:
        for batch in range(first, batches):

            def around(batch: int = batch) -> State:
                return {"images": images.clone(), "batch": torch.tensor(batch)}

            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            part = part_of(state) if state is not None and batch == first else None
            inverted = invert(
                expert.normalize(images[rows]),
                _shifted(objective, rows.start),
                seed=derive_seed(seed, "inversion", batch),
                journal=PartJournal(
                    context.journal, batch * iterations, (batch + 1) * iterations, batches * iterations, around, part
                ),
                finished=None if finished is None else _shifted(finished, rows.start),
            )
            images[rows] = expert.denormalize(inverted)
    return images


def _shifted(ask: Objective, start: int) -> Objective:
    return lambda logits, rows: ask(logits, start + rows)
