"""The paper as its code has it. Each difference from the text is a field of its own."""

from __future__ import annotations

import attrs

from exml.augmentation import Augmentation
from exml.buffers import EqualParts, Latest
from exml.combiners import SideBySide
from exml.engine import Training
from exml.experts import ExpertProfile
from exml.generators import DataImpression, ModelInversion
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation
from exml.normalizers import CenterLogits, RawLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import BufferPolicy, Generator, Prior, Source
from exml.recipes._appendix import (
    AUXILIARY,
    BUFFER,
    CODE_AUGMENTATION,
    CODE_AUXILIARY,
    CODE_REPLAY,
    DISTILLATION,
    GENERATION,
    MEAN,
    MULTI_TASK_BATCH,
    Dataset,
    GenerationRow,
    method_of,
    row_of,
)
from exml.recipes._images import generator_for
from exml.recipes._profile import combiner_for


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
    row, method = row_of(profile, dataset), method_of(strategy)
    distillation, has_tasks = DISTILLATION[row], profile.tasks is not None
    labels = "target" if strategy in ("auxiliary", "noise") else "given"
    builder = (
        StrategyBuilder()
        .generator(_as_in_the_code(generator_for(profile, row, strategy, real_data), row))
        .normalizer(RawLogits() if has_tasks else CenterLogits())
        .combiner(combiner_for(profile, SideBySide()))
        .buffer(_buffer(row, strategy))
        .loss(Distillation(1.0, classes="seen" if has_tasks else "all", reduction="mean", labels=labels))
        .training(
            Training(
                iterations=distillation.iterations,
                batch_size=MULTI_TASK_BATCH if has_tasks else distillation.batch_size,
                learning_rate=distillation.learning_rate,
            )
        )
    )
    augmentation = _augmentation(row, strategy)
    if augmentation is not None:
        builder = builder.augmentation(augmentation)
    return builder if method is None else builder.priors(*_priors(GENERATION[row, method]))


def _as_in_the_code(generator: Generator, dataset: Dataset) -> Generator:
    """No early stopping, pixels clamped, one crop for the whole mini-batch; impressions of unseen classes too."""
    if not isinstance(generator, ModelInversion | DataImpression):
        return generator
    together = attrs.evolve(CODE_AUGMENTATION[dataset], parameters="batch")
    generator = attrs.evolve(generator, stop_at=None, clamp=3.0, augmentation=together)
    return attrs.evolve(generator, classes="all") if isinstance(generator, DataImpression) else generator


def _augmentation(dataset: Dataset, strategy: str) -> Augmentation | None:
    """Of distillation: the buffer's images are padded in normalised units, with the mean colour."""
    if strategy == "noise":
        return None
    if strategy == "auxiliary":
        return CODE_AUXILIARY[dataset]
    if strategy == "replay":
        return CODE_REPLAY[dataset]
    return attrs.evolve(CODE_AUGMENTATION[dataset], fill=MEAN[dataset])


def _buffer(dataset: Dataset, strategy: str) -> BufferPolicy:
    if strategy == "auxiliary":
        return Latest(AUXILIARY[dataset].images)
    return Latest(BUFFER) if strategy == "noise" else EqualParts(BUFFER)


def _priors(row: GenerationRow) -> list[Prior]:
    priors: list[Prior] = [
        L2Norm(row.weight_decay),
        GaussianBlur(row.blur, kernel_size=7, padding="zeros", squared=False),
    ]
    if row.batch_norm:
        priors.append(
            BatchNormStatistics(
                row.batch_norm, layers="last", statistic="variance", reduction="mean", per="batch", absent="ignore"
            )
        )
    return priors
