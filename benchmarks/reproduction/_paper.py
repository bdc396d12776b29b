"""Tables 2 and 3 as the paper prints them: mean and standard deviation over 5 streams of experts, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Figures: TypeAlias = Mapping[str, Mapping[str, tuple[float, float]]]
"""By row (the paper's name) and scenario; without the entries that the paper leaves empty."""

PRINTED = """
                  |mnist-joint|mnist-nc  |cifar10-joint|cifar10-nc|cifar10-mt|core50-joint|core50-nc |core50-ni
Oracle            |93.71 0.28 |99.42 0.19|87.37 1.11   |96.58 0.86|96.58 0.86|85.73 0.29  |96.04 1.08|
Ensemble Avg.     |           |33.40 4.74|             |51.85 2.37|          |            |26.30 1.38|69.92 0.70
Min. Entropy      |           |39.41 5.27|             |52.03 2.67|          |            |42.41 0.96|61.36 1.86
Param. Avg.       |           |20.11 0.97|             |10.00 0.00|51.85 2.37|            |2.00 0.00 |2.00 0.00
Model Inversion ED|93.09 1.43 |43.23 3.00|64.55 3.25   |17.40 3.96|61.71 7.52|50.06 2.76  |33.1  1.93|44.38 4.93
Data Impression ED|92.12 0.88 |36.05 6.74|52.64 5.82   |24.70 6.85|61.15 3.92|52.91 2.09  |17.57 3.57|43.26 2.36
Aux. Data ED      |89.35 0.18 |35.48 6.35|76.94 2.68   |41.35 5.83|60.72 3.70|81.82 0.29  |34.87 1.16|44.51 2.91
"""

PAPER_NOTE = (
    "The paper prints 51.85 ± 2.37 twice in its Table 2: for Ensemble Avg. on CIFAR10-NC and for Param. Avg. on "
    "CIFAR10-MT. One of the two must have been misplaced; both are given here as printed."
)


def _read(printed: str) -> dict[str, dict[str, tuple[float, float]]]:
    (_, *columns), *rows = ([cell.strip() for cell in line.split("|")] for line in printed.strip("\n").splitlines())
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, *cells in rows:
        pairs = {column: cell.split() for column, cell in zip(columns, cells, strict=True) if cell}
        found[name] = {column: (float(mean), float(deviation)) for column, (mean, deviation) in pairs.items()}
    return found


PAPER_FIGURES: Figures = _read(PRINTED)
