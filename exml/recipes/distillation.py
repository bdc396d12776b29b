"""The paper's Ex-Model Distillation with each source of images, sized for the embedded scenarios."""

from __future__ import annotations

from exml import scenarios
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.generators import (
    AuxiliaryData,
    DataImpression,
    GaussianNoise,
    ModelInversion,
    PhotoPatches,
    ProceduralImages,
    Replay,
)
from exml.learning.builder import CompleteBuilder
from exml.losses import Distillation
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import Generator, Prior
from exml.recipes._budget import budget
from exml.recipes._scenarios import combiner_for, has_batch_norm


def _paper(generator: Generator, scenario: str, seed: int) -> CompleteBuilder:
    """Secs. 3 and 4 with λ_CE = 1 (appendix B): Eq. 8 by class, centred logits, Eq. 10, augmentation."""
    return (
        budget()
        .generator(generator)
        .augmentation(Augmentation(shift=1))
        .normalizer(CenterLogits())
        .combiner(combiner_for(scenario, seed, ByClass()))
        .loss(Distillation(cross_entropy=1.0))
    )


def _priors(scenario: str, seed: int) -> list[Prior]:
    """Those of appendices B.1.1 and B.1.2; there are no batch-norm statistics to match in a LeNet."""
    priors: list[Prior] = [L2Norm(0.001), GaussianBlur(0.001)]
    return [*priors, BatchNormStatistics(1.0)] if has_batch_norm(scenario, seed) else priors


def model_inversion(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """Model Inversion ED (Sec. 4, "Model Inversion"), with the priors of appendix B.1.1."""
    generator = ModelInversion(iterations=150, learning_rate=0.05, temperature=2.0, batch_size=512)
    return _paper(generator, scenario, seed).priors(*_priors(scenario, seed))


def data_impression(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """Data Impression ED (Sec. 4, "Data Impression"), with the priors of appendix B.1.2."""
    generator = DataImpression(beta=10.0, iterations=150, learning_rate=0.05, temperature=20.0, batch_size=512)
    return _paper(generator, scenario, seed).priors(*_priors(scenario, seed))


def auxiliary(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """Aux. Data ED (Sec. 4, "Auxiliary Data") on patches of two photographs."""
    return _paper(AuxiliaryData(PhotoPatches(scenarios.load(scenario, seed).image_shape)), scenario, seed)


def procedural(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """The paper's distillation on procedural images: what the images alone change."""
    return _paper(ProceduralImages(), scenario, seed)


def replay(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """Replay ED (Sec. 5): the paper's distillation on the experts' own training data, against the scenario's rules."""
    return _paper(Replay(scenarios.ScenarioSource(scenario, seed)), scenario, seed)


def noise(scenario: str = "digits-nc", seed: int = 0) -> CompleteBuilder:
    """The paper's distillation on Gaussian noise: how much of the others is the images."""
    return _paper(GaussianNoise(), scenario, seed)
