"""Natural image priors (Sec. 4.1): penalties on unnatural images. Imports only the core and the protocols."""

from exml.core.activation import Activation, record_activations, statistics_of
from exml.priors.batch_norm import BatchNormStatistics
from exml.priors.composite import Sum, Weighted
from exml.priors.pixels import GaussianBlur, L2Norm, TotalVariation

__all__ = [
    "Activation",
    "BatchNormStatistics",
    "GaussianBlur",
    "L2Norm",
    "Sum",
    "TotalVariation",
    "Weighted",
    "record_activations",
    "statistics_of",
]
