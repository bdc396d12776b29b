"""Where the paper's images come from, with the settings of appendix B."""

from __future__ import annotations

from exml.experts import ExpertProfile
from exml.generators import AuxiliaryData, DataImpression, DatasetImages, GaussianNoise, ModelInversion, Replay
from exml.protocols import Generator, Source
from exml.recipes._appendix import AUXILIARY, GENERATION, STOP_AT, Dataset, method_of
from exml.recipes._profile import required


def generator_for(profile: ExpertProfile, dataset: Dataset, strategy: str, real_data: Source | None) -> Generator:
    """The generator of a strategy as the text describes it.

    Raises:
        SettingError: for a strategy that the paper does not have, or ``"replay"`` without ``real_data``.
    """
    method = method_of(strategy)
    if strategy == "auxiliary":
        return AuxiliaryData(DatasetImages(AUXILIARY[dataset].name, size=profile.image_shape[-1]))
    if strategy == "replay":
        return Replay(required(real_data))
    if method is None:
        return GaussianNoise()
    row = GENERATION[dataset, method]
    inversion = ModelInversion(
        iterations=row.iterations,
        learning_rate=row.learning_rate,
        temperature=row.temperature,
        batch_size=row.batch_size,
        stop_at=STOP_AT[dataset],
    )
    if method == "model-inversion":
        return inversion
    return DataImpression(
        beta=row.beta,
        iterations=row.iterations,
        learning_rate=row.learning_rate,
        temperature=row.temperature,
        batch_size=row.batch_size,
        stop_at=STOP_AT[dataset],
    )
