"""Tables 2 and 3 as the paper prints them: mean and standard deviation over 5 streams of experts, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

Figures: TypeAlias = Mapping[str, Mapping[str, tuple[float, float]]]
"""By row (the paper's name) and scenario; without the entries that the paper leaves empty."""

PAPER_FIGURES: Figures = MappingProxyType(
    {
        "Oracle": {
            "mnist-joint": (93.71, 0.28),
            "mnist-nc": (99.42, 0.19),
            "cifar10-joint": (87.37, 1.11),
            "cifar10-nc": (96.58, 0.86),
            "cifar10-mt": (96.58, 0.86),
            "core50-joint": (85.73, 0.29),
            "core50-nc": (96.04, 1.08),
        },
        "Ensemble Avg.": {
            "mnist-nc": (33.40, 4.74),
            "cifar10-nc": (51.85, 2.37),
            "core50-nc": (26.30, 1.38),
            "core50-ni": (69.92, 0.70),
        },
        "Min. Entropy": {
            "mnist-nc": (39.41, 5.27),
            "cifar10-nc": (52.03, 2.67),
            "core50-nc": (42.41, 0.96),
            "core50-ni": (61.36, 1.86),
        },
        "Param. Avg.": {
            "mnist-nc": (20.11, 0.97),
            "cifar10-nc": (10.00, 0.00),
            "cifar10-mt": (51.85, 2.37),
            "core50-nc": (2.00, 0.00),
            "core50-ni": (2.00, 0.00),
        },
        "Model Inversion ED": {
            "mnist-joint": (93.09, 1.43),
            "mnist-nc": (43.23, 3.00),
            "cifar10-joint": (64.55, 3.25),
            "cifar10-nc": (17.40, 3.96),
            "cifar10-mt": (61.71, 7.52),
            "core50-joint": (50.06, 2.76),
            "core50-nc": (33.1, 1.93),
            "core50-ni": (44.38, 4.93),
        },
        "Data Impression ED": {
            "mnist-joint": (92.12, 0.88),
            "mnist-nc": (36.05, 6.74),
            "cifar10-joint": (52.64, 5.82),
            "cifar10-nc": (24.70, 6.85),
            "cifar10-mt": (61.15, 3.92),
            "core50-joint": (52.91, 2.09),
            "core50-nc": (17.57, 3.57),
            "core50-ni": (43.26, 2.36),
        },
        "Aux. Data ED": {
            "mnist-joint": (89.35, 0.18),
            "mnist-nc": (35.48, 6.35),
            "cifar10-joint": (76.94, 2.68),
            "cifar10-nc": (41.35, 5.83),
            "cifar10-mt": (60.72, 3.70),
            "core50-joint": (81.82, 0.29),
            "core50-nc": (34.87, 1.16),
            "core50-ni": (44.51, 2.91),
        },
    }
)

PAPER_NOTE = (
    "The paper prints 51.85 ± 2.37 twice in its Table 2: for Ensemble Avg. on CIFAR10-NC and for Param. Avg. on "
    "CIFAR10-MT. One of the two must have been misplaced; both are given here as printed."
)
