"""Five experts of one architecture asked in a loop, or in one pass: a forward pass of all of them.

uv run pytest benchmarks/test_one_pass.py --benchmark-only
"""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import one_pass

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # pooling has no rule for several networks at once
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", one_pass.CASES)
@pytest.mark.parametrize("batch", one_pass.BATCHES)
@pytest.mark.parametrize("version", ["loop", "one pass"])
def test_five_experts(
    benchmark: BenchmarkFixture,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    model: str,
    batch: int,
    version: str,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # both versions shall compute the same
    benchmark.group = f"five experts {model} {batch} {device}"
    place = torch.device(device)
    images = torch.randn(batch, *one_pass.CASES[model][1][1:]).to(place)
    networks = one_pass.experts(model, place)
    with ExitStack() as stack:
        ask = one_pass.versions(networks, images, stack)[version]

        def synchronised() -> torch.Tensor:
            logits = ask()
            one_pass.synchronize(place)
            return logits

        benchmark.extra_info.update(model=model, batch=batch, device=device, experts=len(networks))
        logits = benchmark.pedantic(synchronised, rounds=9, warmup_rounds=2)
    few = slice(4)  # in float64 the others would take longer than all the rest
    with torch.no_grad():
        wanted = torch.stack([network.double()(images[few].double()) for network in networks])
    scale = wanted.abs().max()
    torch.testing.assert_close(logits[:, few].double() / scale, wanted / scale, rtol=1e-3, atol=1e-4)
