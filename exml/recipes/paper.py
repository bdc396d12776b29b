"""The paper as its text has it: Secs. 3 to 5 with appendix B."""

from __future__ import annotations

from exml.buffers import Cumulative
from exml.combiners import ByClass
from exml.engine import Training
from exml.generators import AuxiliaryData, DataImpression, DatasetImages, GaussianNoise, ModelInversion, Replay
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation
from exml.normalizers import CenterLogits, RawLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import Generator, Prior
from exml.recipes._appendix import (
    AUGMENTATION,
    AUXILIARY,
    BUFFER,
    DISTILLATION,
    GENERATION,
    STOP_AT,
    Dataset,
    dataset_of,
    is_multi_task,
    method_of,
)
from exml.recipes._scenarios import combiner_for
from exml.scenarios import ScenarioSource


def paper(scenario: str, strategy: str, seed: int = 0) -> CompleteBuilder:
    """One cell of Tables 2 and 3, as the text describes it; :func:`exml.recipes.reference` is what the code does.

    Where the text leaves something open, this is how it is read:

    - *normalize* (Eqs. 6, 7) takes away the mean; with task labels there is nothing to put on a common scale, and
      logits stay as they are;
    - Eq. 9 is called the *mean* squared error and printed as a squared norm. It is the mean over the classes: appendix
      B's learning rates are for it, and with the norm ResNet18 diverges at 0.1 within ten steps;
    - images of MNIST are finished once their class is predicted with a probability above 0.99, as Fig. 2 says, and
      after appendix B's number of steps at the latest. Nothing says so of the other data sets;
    - all images are augmented, drawn ones as well as synthetic ones: Sec. 4 calls either x_syn.

    Args:
        scenario: one of the paper's eight, such as ``"cifar10-nc"``; what follows a ":" in its name says how its
            experts were trained, and matters to ``"replay"`` alone.
        strategy: one of :data:`exml.recipes.PAPER_STRATEGIES`.
        seed: of the scenario: of its tasks, and of the data that ``"replay"`` draws from.

    Raises:
        SettingError: for another scenario or strategy, naming those there are.

    >>> strategy = paper("cifar10-nc", "model-inversion").build()
    >>> strategy.generator
    ModelInversion(iterations=500, learning_rate=0.1, temperature=2.0, batch_size=1024, ...)
    >>> strategy.buffer, strategy.training.iterations
    (Cumulative(size=5000), 50000)
    """
    dataset, method = dataset_of(scenario), method_of(strategy)
    has_tasks = is_multi_task(scenario)
    row = DISTILLATION[dataset]
    builder = (
        StrategyBuilder()
        .generator(_generator(scenario, dataset, strategy, seed))
        .augmentation(AUGMENTATION[dataset])
        .normalizer(RawLogits() if has_tasks else CenterLogits())
        .combiner(combiner_for(scenario, seed, ByClass()) if has_tasks else ByClass())
        .buffer(Cumulative(BUFFER))
        .loss(Distillation(cross_entropy=1.0, reduction="mean"))
        .training(Training(iterations=row.iterations, batch_size=row.batch_size, learning_rate=row.learning_rate))
    )
    if method is None:
        return builder
    generation = GENERATION[dataset, method]
    priors: list[Prior] = [L2Norm(generation.weight_decay), GaussianBlur(generation.blur)]
    if generation.batch_norm:
        priors.append(BatchNormStatistics(generation.batch_norm, absent="ignore"))
    return builder.priors(*priors)


def _generator(scenario: str, dataset: Dataset, strategy: str, seed: int) -> Generator:
    method = method_of(strategy)
    if strategy == "auxiliary":
        return AuxiliaryData(DatasetImages(AUXILIARY[dataset].name, size=AUXILIARY[dataset].size))
    if strategy == "replay":
        return Replay(ScenarioSource(scenario, seed))
    if method is None:
        return GaussianNoise()
    row = GENERATION[dataset, method]
    if method == "model-inversion":
        return ModelInversion(
            iterations=row.iterations,
            learning_rate=row.learning_rate,
            temperature=row.temperature,
            batch_size=row.batch_size,
            stop_at=STOP_AT[dataset],
        )
    return DataImpression(
        beta=row.beta,
        iterations=row.iterations,
        learning_rate=row.learning_rate,
        temperature=row.temperature,
        batch_size=row.batch_size,
        stop_at=STOP_AT[dataset],
    )
