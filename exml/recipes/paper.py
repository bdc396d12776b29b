"""The paper as its text describes it: Secs. 3 to 5 with appendix B."""

from __future__ import annotations

from exml.buffers import Cumulative
from exml.combiners import ByClass
from exml.core.errors import SettingError
from exml.engine import Training
from exml.experts import ExpertProfile
from exml.generators import AuxiliaryData, DataImpression, DatasetImages, GaussianNoise, ModelInversion, Replay
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation
from exml.normalizers import CenterLogits, RawLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import Generator, Prior, Source
from exml.recipes._appendix import BUFFER, PAPER_STRATEGIES, Generation, Rows, rows_for
from exml.recipes._profile import combiner_for, required


def paper(
    profile: ExpertProfile, strategy: str, *, dataset: str | None = None, real_data: Source | None = None
) -> CompleteBuilder:
    """One cell of Tables 2 and 3, as the text describes it; :func:`exml.recipes.reference` is what the code does.

    Where the text leaves something open, this recipe reads it as follows:

    - *normalize* (Eqs. 6, 7) subtracts the mean. With task labels, logits need no common scale and stay as they are.
    - Eq. 9 is called the *mean* squared error and printed as a squared norm. It is the mean over the classes: appendix
      B's learning rates are made for it, and with the norm a ResNet-18 diverges at 0.1 within ten steps.
    - An image of MNIST is finished when its class is predicted with a probability above 0.99, as Fig. 2 says, and
      after appendix B's number of steps at the latest. The text does not say so of the other datasets.
    - All images are augmented, auxiliary images as well as synthetic ones: Sec. 4 calls both x_syn.

    Args:
        profile: what the experts are like. The shape of their images selects the rows of appendix B: 1xHxW those of
            MNIST, 3x32x32 those of CIFAR-10, 3x128x128 those of CORe50.
        strategy: one of :data:`exml.recipes.PAPER_STRATEGIES`.
        dataset: select the rows of this dataset instead: ``"mnist"``, ``"cifar10"`` or ``"core50"``.
        real_data: the experts' training data, for ``"replay"``.

    Raises:
        SettingError: for images of another shape without ``dataset``, another strategy, or ``"replay"`` without
            ``real_data``.

    >>> from exml import scenarios
    >>> strategy = paper(scenarios.load("digits-nc").profile(), "model-inversion").build()
    >>> strategy.generator
    ModelInversion(iterations=3000, learning_rate=0.01, temperature=2.0, batch_size=512, ...)
    >>> strategy.buffer, strategy.training.iterations
    (Cumulative(size=5000), 30000)
    """
    if strategy not in PAPER_STRATEGIES:
        raise SettingError(
            expected=f"one of {', '.join(PAPER_STRATEGIES)}", got=repr(strategy), remedy="choose one of them"
        )
    rows = rows_for(profile, dataset)
    generation = rows.generation.get(strategy)
    builder = (
        StrategyBuilder()
        .augmentation(rows.augmentation)
        .normalizer(CenterLogits() if profile.tasks is None else RawLogits())
        .combiner(combiner_for(profile, ByClass()))
        .buffer(Cumulative(BUFFER))
        .loss(Distillation(cross_entropy=1.0, reduction="mean"))
        .training(Training(iterations=rows.iterations, batch_size=rows.batch_size, learning_rate=rows.learning_rate))
    )
    if generation is not None:
        return builder.generator(_inversion(rows, generation, strategy)).priors(*_priors(generation))
    if strategy == "auxiliary":
        return builder.generator(AuxiliaryData(DatasetImages(rows.auxiliary, size=profile.image_shape[-1])))
    return builder.generator(GaussianNoise() if strategy == "noise" else Replay(required(real_data)))


def _inversion(rows: Rows, generation: Generation, strategy: str) -> Generator:
    inversion = ModelInversion(
        iterations=generation.iterations,
        learning_rate=generation.learning_rate,
        temperature=generation.temperature,
        batch_size=generation.batch_size,
        stop_at=rows.stop_at,
    )
    if strategy == "model-inversion":
        return inversion
    return DataImpression(
        beta=generation.beta,
        iterations=generation.iterations,
        learning_rate=generation.learning_rate,
        temperature=generation.temperature,
        batch_size=generation.batch_size,
        stop_at=rows.stop_at,
    )


def _priors(generation: Generation) -> list[Prior]:
    priors: list[Prior] = [L2Norm(generation.weight_decay), GaussianBlur(generation.blur)]
    return [*priors, BatchNormStatistics(generation.batch_norm, absent="ignore")] if generation.batch_norm else priors
