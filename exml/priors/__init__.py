"""Natural image priors (Sec. 4.1): penalties on images that do not look natural."""

from exml.core.activation import Activation, record_activations, statistics_of
from exml.priors.batch_norm import BatchNormStatistics
from exml.priors.blur import GaussianBlur
from exml.priors.l2_norm import L2Norm
from exml.priors.sum import Sum
from exml.priors.total_variation import TotalVariation
from exml.priors.weighted import Weighted

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
