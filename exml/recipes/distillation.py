"""The paper's Ex-Model Distillation with each source of images, sized for a minute or two on a CPU."""

from __future__ import annotations

from exml.augmentation import Augmentation
from exml.buffers import Cumulative
from exml.combiners import ByClass, MultiTask
from exml.core.errors import SettingError
from exml.engine import Training
from exml.experts import ExpertProfile
from exml.generators import (
    AuxiliaryData,
    DataImpression,
    GaussianNoise,
    ModelInversion,
    PhotoPatches,
    ProceduralImages,
    Replay,
)
from exml.learning.builder import CompleteBuilder, StrategyBuilder
from exml.losses import Distillation
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm
from exml.protocols import Combiner, Generator, Source

BUFFER = Cumulative(2_000)
"""The paper's buffer has 5,000 samples (appendix B)."""
TRAINING = Training(iterations=800, batch_size=128, learning_rate=0.01, optimizer="adam", schedule="one-cycle")
"""Adam with a one-cycle schedule needs far fewer steps than the paper's SGD, which takes 20,000 to 50,000."""


def model_inversion(profile: ExpertProfile) -> CompleteBuilder:
    """Model Inversion ED (Sec. 4, "Model Inversion"), with the priors of appendix B.1.1."""
    generator = ModelInversion(iterations=150, learning_rate=0.05, temperature=2.0, batch_size=512)
    return _paper(generator, profile).priors(L2Norm(0.001), GaussianBlur(0.001), *statistics_for(profile, 1.0))


def data_impression(profile: ExpertProfile) -> CompleteBuilder:
    """Data Impression ED (Sec. 4, "Data Impression"), with the priors of appendix B.1.2."""
    generator = DataImpression(beta=10.0, iterations=150, learning_rate=0.05, temperature=20.0, batch_size=512)
    return _paper(generator, profile).priors(L2Norm(0.001), GaussianBlur(0.001), *statistics_for(profile, 1.0))


def auxiliary(profile: ExpertProfile) -> CompleteBuilder:
    """Aux. Data ED (Sec. 4, "Auxiliary Data") on patches of two photographs."""
    return _paper(AuxiliaryData(PhotoPatches(profile.image_shape)), profile)


def procedural(profile: ExpertProfile) -> CompleteBuilder:
    """The paper's distillation on procedural images, to isolate the effect of the images."""
    return _paper(ProceduralImages(), profile)


def replay(profile: ExpertProfile, real_data: Source) -> CompleteBuilder:
    """Replay ED (Sec. 5): the paper's distillation on the experts' own training data, which breaks ex-model rules."""
    return _paper(Replay(real_data), profile)


def noise(profile: ExpertProfile) -> CompleteBuilder:
    """The paper's distillation on Gaussian noise, the baseline without informative images."""
    return _paper(GaussianNoise(), profile)


def _paper(generator: Generator, profile: ExpertProfile) -> CompleteBuilder:
    """Secs. 3 and 4 with λ_CE = 1 (appendix B): Eq. 8 by class, centered logits, Eq. 10, augmentation."""
    return (
        StrategyBuilder()
        .buffer(BUFFER)
        .training(TRAINING)
        .generator(generator)
        .augmentation(Augmentation(shift=1))
        .normalizer(CenterLogits())
        .combiner(combiner_for(profile, ByClass()))
        .loss(Distillation(cross_entropy=1.0))
    )


def combiner_for(profile: ExpertProfile, flat: Combiner) -> Combiner:
    """``flat``, within each task where the experts have task labels."""
    return flat if profile.tasks is None else MultiTask(profile.tasks, flat)


def statistics_for(profile: ExpertProfile, weight: float) -> tuple[BatchNormStatistics, ...]:
    """The prior on running statistics, if any expert has them; it ignores experts that have none."""
    present = [bool(expert.running_statistics) for expert in profile.experts]
    return (BatchNormStatistics(weight, absent="error" if all(present) else "ignore"),) if any(present) else ()


def required(real_data: Source | None) -> Source:
    """The source, for recipes that replay it."""
    if real_data is None:
        expected = "real_data, the source of the images to replay"
        remedy = "pass a source such as exml.scenarios.ScenarioSource(name, seed), or choose another recipe"
        raise SettingError(expected=expected, got="None", remedy=remedy)
    return real_data
