"""The paper as its code has it. Each difference from the text is a field of its own."""

from __future__ import annotations

import attrs

from exml.augmentation import Augmentation
from exml.buffers import EqualParts, Latest
from exml.combiners import SideBySide
from exml.experts import ExpertProfile
from exml.generators import DataImpression, ModelInversion
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import BufferPolicy, Generator, Prior, Source
from exml.recipes._appendix import BUFFER, MULTI_TASK_BATCH, Generation, Rows, rows_for
from exml.recipes._profile import combiner_for
from exml.recipes.paper import paper


def reference(
    profile: ExpertProfile, strategy: str, *, dataset: str | None = None, real_data: Source | None = None
) -> CompleteBuilder:
    """One cell of Tables 2 and 3, as the paper's own code makes it; :func:`exml.recipes.paper` is the text.

    The numbers of the paper came from this code (github.com/AntonioCarta/ex_model_cl, as published). The page
    *Deviations* lists where it departs from the text, and by how much that matters. The settings are those of appendix
    B. Only for CIFAR10-MT are the configurations published too; these have mini-batches of 128.

    Args:
        profile: see :func:`exml.recipes.paper`, like the other arguments.
        strategy: see there.
        dataset: see there.
        real_data: see there.

    Raises:
        SettingError: as :func:`exml.recipes.paper`.

    >>> from exml import scenarios
    >>> strategy = reference(scenarios.load("digits-nc").profile(), "model-inversion").build()
    >>> strategy.combiner, strategy.buffer
    (SideBySide(...), EqualParts(size=5000))
    >>> strategy.generator.clamp, strategy.generator.augmentation.parameters
    (3.0, 'batch')
    """
    text = paper(profile, strategy, dataset=dataset, real_data=real_data).build()
    rows, has_tasks = rows_for(profile, dataset), profile.tasks is not None
    builder = (
        StrategyBuilder()
        .generator(_generator(text.generator, rows))
        .normalizer(text.normalizer)
        .combiner(combiner_for(profile, SideBySide()))
        .buffer(_buffer(rows, strategy))
        .loss(
            Distillation(
                cross_entropy=1.0,
                classes="seen" if has_tasks else "all",
                reduction="mean",
                labels="target" if strategy in ("auxiliary", "noise") else "given",
            )
        )
        .training(attrs.evolve(text.training, batch_size=MULTI_TASK_BATCH) if has_tasks else text.training)
    )
    augmentation = _augmentation(rows, strategy)
    if augmentation is not None:
        builder = builder.augmentation(augmentation)
    generation = rows.generation.get(strategy)
    return builder if generation is None else builder.priors(*_priors(generation))


def _generator(text: Generator, rows: Rows) -> Generator:
    """No early stopping, pixels clamped, one crop for the whole mini-batch; impressions of unseen classes too."""
    if not isinstance(text, ModelInversion | DataImpression):
        return text
    together = attrs.evolve(rows.code_augmentation, parameters="batch")
    code = attrs.evolve(text, stop_at=None, clamp=3.0, augmentation=together)
    return attrs.evolve(code, classes="all") if isinstance(code, DataImpression) else code


def _augmentation(rows: Rows, strategy: str) -> Augmentation | None:
    """In distillation, images of the buffer are padded in normalized units, with the mean color."""
    if strategy == "noise":
        return None
    if strategy == "auxiliary":
        return rows.code_auxiliary
    return rows.code_replay if strategy == "replay" else attrs.evolve(rows.code_augmentation, fill=rows.mean)


def _buffer(rows: Rows, strategy: str) -> BufferPolicy:
    if strategy == "auxiliary":
        return Latest(rows.code_auxiliary_images)
    return Latest(BUFFER) if strategy == "noise" else EqualParts(BUFFER)


def _priors(generation: Generation) -> list[Prior]:
    statistics = BatchNormStatistics(
        generation.batch_norm, layers="last", statistic="variance", reduction="mean", per="batch", absent="ignore"
    )
    blur = GaussianBlur(generation.blur, kernel_size=7, padding="zeros", squared=False)
    return [L2Norm(generation.weight_decay), blur, *([statistics] if generation.batch_norm else [])]
