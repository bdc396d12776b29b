"""From two teachers' logits to a number to minimise (Eqs. 6 to 10): normalizers, combiners and losses."""

from exml.losses.by_class import ByClass
from exml.losses.center import CenterLogits
from exml.losses.cross_entropy import CrossEntropy
from exml.losses.distillation import Distillation
from exml.losses.kl_divergence import KLDivergence
from exml.losses.l2_normalize import L2NormalizeLogits
from exml.losses.mean_squared_error import MeanSquaredError
from exml.losses.multi_task import MultiTask
from exml.losses.product_of_experts import ProductOfExperts
from exml.losses.raw import RawLogits
from exml.losses.side_by_side import SideBySide
from exml.losses.standardize import StandardizeLogits
from exml.losses.sum import Sum
from exml.losses.weighted import Weighted

__all__ = [
    "ByClass",
    "CenterLogits",
    "CrossEntropy",
    "Distillation",
    "KLDivergence",
    "L2NormalizeLogits",
    "MeanSquaredError",
    "MultiTask",
    "ProductOfExperts",
    "RawLogits",
    "SideBySide",
    "StandardizeLogits",
    "Sum",
    "Weighted",
]
