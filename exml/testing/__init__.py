"""Conformance suites and a benchmark for components of your own. Imports the rooms below the recipes.

Every suite raises an AssertionError that names the first property that does not hold, and the remedy.

>>> import attrs, exml
>>> from exml.testing import check_normalizer
>>> @exml.component
... @attrs.frozen
... class Halve:
...     def __call__(self, logits, known, /):
...         return logits / 2
>>> check_normalizer(Halve())
"""

from exml.testing.benchmarks import BUILT_IN, Benchmark, BenchmarkRow, benchmark
from exml.testing.component import check_component
from exml.testing.generators import check_baseline, check_buffer, check_calibration, check_generator, tiny_expert
from exml.testing.losses import check_combiner, check_loss, check_normalizer
from exml.testing.priors import check_augmentation, check_prior
from exml.testing.ranks import run_on_ranks

__all__ = [
    "BUILT_IN",
    "Benchmark",
    "BenchmarkRow",
    "benchmark",
    "check_augmentation",
    "check_baseline",
    "check_buffer",
    "check_calibration",
    "check_combiner",
    "check_component",
    "check_generator",
    "check_loss",
    "check_normalizer",
    "check_prior",
    "run_on_ranks",
    "tiny_expert",
]
