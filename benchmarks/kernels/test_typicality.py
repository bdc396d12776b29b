"""The energy of inputs within the row space of a layer, compared with patches that are written out."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.kernels.measure import DEVICES, Place, assert_close, measure, on
from exml.engine.reading import row_space_typicality

CASES = ("linear 512x400", "convolution 64x16x14x14")


def written_out(inputs: Tensor, layer: nn.Module, basis: Tensor) -> Tensor:
    """-log(1 - ‖V a‖² / ‖a‖²) over all patches a of an image."""
    patches = inputs[..., None]
    if isinstance(layer, nn.Conv2d):
        patches = nn.functional.unfold(inputs, layer.kernel_size, padding=layer.padding)
    inside = (basis @ patches).square().sum((1, 2))
    return -(1 - inside / patches.square().sum((1, 2))).log()


@on(DEVICES, CASES, ("ours", "straightforward"))
def test_typicality(benchmark: BenchmarkFixture, place: Place, case: str, version: str) -> None:
    torch.manual_seed(0)
    kind, _, shape = case.partition(" ")
    inputs = torch.rand(*map(int, shape.split("x")), device=place.device)
    layer = nn.Linear(400, 120) if kind == "linear" else nn.Conv2d(16, 32, 3, padding=1)
    basis = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)[2].to(place.device)
    form = row_space_typicality if version == "ours" else written_out
    found = measure(
        benchmark, lambda: form(inputs, layer, basis), place, kernel="typicality", case=case, version=version
    )
    assert_close([found], [written_out(inputs.double(), layer, basis.double())], place)
