"""One target from two teachers' logits, compared with a loop over rows."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.kernels.measure import DEVICES, Place, assert_close, measure, on
from exml.combiners import ByClass, ProductOfExperts, SideBySide
from exml.core.samples import Samples
from exml.core.targets import TeacherLogits

COMBINERS = {"ByClass": ByClass(), "ProductOfExperts": ProductOfExperts(), "SideBySide": SideBySide()}
SIZES = ((32, 10), (512, 10), (128, 100))
CASES = tuple(f"{name} {batch}x{classes}" for name in COMBINERS for batch, classes in SIZES)


def row_by_row(name: str, previous: TeacherLogits, expert: TeacherLogits, labels: Tensor) -> Tensor:
    """Eq. 8 and the two others as loops."""
    rows = []
    for label, one, other in zip(labels.tolist(), previous.logits, expert.logits, strict=True):
        if name == "ProductOfExperts":
            rows.append(one + other)
        elif name == "SideBySide":
            rows.append(torch.where(previous.known, one, other))
        elif previous.known[label]:
            rows.append(torch.where(previous.known, one, 0))
        else:
            rows.append(torch.where(expert.known, other, 0))
    return torch.stack(rows)


@on(DEVICES, CASES, ("ours", "straightforward"))
def test_combiners(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    name, size = case.split(" ")
    batch, classes = map(int, size.split("x"))
    generator = torch.Generator().manual_seed(0)
    known = torch.arange(classes, device=place.device) < classes // 2
    everything = torch.ones_like(known)
    one, other = torch.randn(2, batch, classes, generator=generator).to(place.device)
    previous, expert = TeacherLogits(one, known, everything), TeacherLogits(other, ~known, everything)
    labels = torch.randint(classes, (batch,), generator=generator).to(place.device)
    samples = Samples.of(torch.zeros(batch, 1, 1, 1, device=place.device), labels)

    def work() -> Tensor:
        if version == "ours":
            return COMBINERS[name](previous, expert, samples).logits
        return row_by_row(name, previous, expert, labels)

    target = measure(benchmark, work, place, kernel="combiner", case=case, version=version)
    by_label = torch.where(known[labels][:, None], torch.where(known, one, 0), torch.where(known, 0, other))
    wanted = {"ByClass": by_label, "ProductOfExperts": one + other, "SideBySide": torch.where(known, one, other)}
    assert_close([target], [wanted[name].double()], place)
