"""A mini-batch from a buffer of 5,000 samples: images, labels, tasks and experiences."""

from collections.abc import Callable, Sequence

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from benchmarks.kernels.measure import DEVICES, Place, measure, on
from exml.core.samples import Samples

SIZE = 5_000
BATCHES = (32, 128, 512)
CASES = tuple(f"{batch}x{shape}" for batch in BATCHES for shape in ("1x32x32", "3x32x32"))


def fields(samples: Samples) -> tuple[Tensor, ...]:
    return samples.images, samples.labels, samples.tasks, samples.experiences


def versions(memory: Samples, drawn: Tensor) -> dict[str, Callable[[], Sequence[Tensor]]]:
    dataset = TensorDataset(*fields(memory))
    return {
        "ours": lambda: fields(memory[drawn]),
        # As in a DataLoader: sample by sample.
        "straightforward": lambda: default_collate([dataset[k] for k in drawn.tolist()]),
        "index_select": lambda: [field.index_select(0, drawn) for field in fields(memory)],
    }


@on(DEVICES, CASES, ("ours", "straightforward", "index_select"))
def test_gather(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    batch, channels, height, width = map(int, case.split("x"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(SIZE, channels, height, width, generator=generator).to(place.device)
    drawn = torch.randint(SIZE, (batch,), generator=generator).to(place.device)
    memory = Samples.of(images, torch.arange(SIZE, device=place.device) % 10)
    work = versions(memory, drawn)[version]
    gathered = measure(benchmark, work, place, kernel="mini-batch gather", case=case, version=version)
    for field, rows in zip(fields(memory), gathered, strict=True):
        assert all(torch.equal(row, field[k]) for row, k in zip(rows, drawn.tolist(), strict=True))
