"""Soft targets for data impressions: one Dirichlet draw per image, with the concentrations of its class."""

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import Place, measure, on
from exml.generators.optimized import class_similarity

SIZE, CLASSES, BETA = 512, 10, 10.0


def ours(concentrations: Tensor, positions: Tensor) -> Tensor:
    """All rows at once, from a generator."""
    generator = torch.Generator().manual_seed(0)
    return torch._sample_dirichlet(concentrations[positions], generator=generator)


def straightforward(concentrations: Tensor, positions: Tensor) -> Tensor:
    """One distribution per row."""
    return torch.stack([torch.distributions.Dirichlet(concentrations[k]).sample() for k in positions.tolist()])


def distributions(concentrations: Tensor, positions: Tensor) -> Tensor:
    """All rows at once, from the global generator."""
    return torch.distributions.Dirichlet(concentrations[positions]).sample()


def numpy(concentrations: Tensor, positions: Tensor) -> Tensor:
    """One call per row."""
    generator, rows = np.random.default_rng(0), concentrations.numpy()
    return torch.from_numpy(np.stack([generator.dirichlet(rows[k]) for k in positions.tolist()]))


VERSIONS = {f.__name__: f for f in (ours, straightforward, distributions, numpy)}


@on([Place(dtype=torch.float64)], [f"{SIZE}x{CLASSES}"], tuple(VERSIONS))
def test_dirichlet_targets(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    templates = torch.randn(CLASSES, 20, generator=torch.Generator().manual_seed(0))
    concentrations = BETA * class_similarity(templates)
    positions = torch.arange(SIZE) % CLASSES

    def work() -> Tensor:
        return VERSIONS[version](concentrations, positions)

    targets = measure(benchmark, work, place, kernel="Dirichlet targets", case=case, version=version)
    assert targets.sum(1).numpy() == pytest.approx(1)
    means = torch.stack([targets[positions == k].mean(0) for k in range(CLASSES)])
    total = concentrations.sum(1, keepdim=True)
    wanted = concentrations / total
    deviation = (wanted * (1 - wanted) / (total + 1) * CLASSES / SIZE).sqrt()
    assert bool(((means - wanted).abs() < 6 * deviation + 1e-3).all())
