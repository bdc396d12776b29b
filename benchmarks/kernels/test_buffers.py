"""A buffer update in the second experience: a subsample of 5,000 samples, and 2,500 new ones."""

import random
from collections.abc import Callable

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import DEVICES, Place, measure, on
from exml.buffers import ClassBalanced, Cumulative, Reservoir
from exml.core.samples import Samples

SIZE = 5_000
POLICIES = {
    "Cumulative": Cumulative(SIZE),
    "ClassBalanced": ClassBalanced(SIZE),
    "Reservoir": Reservoir(SIZE, per_experience=SIZE // 2),
}
CASES = tuple(f"{name} {SIZE}x1x32x32" for name in POLICIES)


def straightforward(memory: Samples, new: Samples) -> Callable[[], Tensor]:
    """A list of samples: drawn from, extended and stacked."""
    kept, added = (list(zip(samples.images, samples.labels, strict=True)) for samples in (memory, new))

    def work() -> Tensor:
        union = random.sample(kept, SIZE - len(added)) + added
        images, labels = zip(*union, strict=True)
        return torch.stack(images) + 0 * torch.stack(labels)[:, None, None, None]

    return work


@on(DEVICES, CASES, ("ours", "straightforward"))
def test_buffers(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    policy = POLICIES[case.split(" ")[0]]
    labels = torch.arange(SIZE, device=place.device) % 10
    # The value of the pixels is the number of the sample.
    pixels = torch.arange(SIZE, dtype=torch.float32, device=place.device)[:, None, None, None]
    memory = Samples.of(pixels.repeat(1, 1, 32, 32), labels, experience=1)
    new = Samples.of(pixels[: SIZE // 2].repeat(1, 1, 32, 32) + SIZE, labels[: SIZE // 2], experience=2)
    generator = torch.Generator(place.device)

    def ours() -> Tensor:
        return policy(memory, new, generator.manual_seed(0)).images

    work = ours if version == "ours" else straightforward(memory, new)
    images = measure(benchmark, work, place, kernel="buffer", case=case, version=version)
    kept = images[:, 0, 0, 0]
    assert images.shape == (SIZE, 1, 32, 32)
    assert len(kept.unique()) == SIZE
    assert bool((images == kept[:, None, None, None]).all())
