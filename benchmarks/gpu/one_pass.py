"""Five experts of one architecture: one forward pass after another, or a single one with ``torch.func.vmap``.

    uv run python -u benchmarks/gpu/one_pass.py                                # on a GPU
    uv run python -u benchmarks/gpu/one_pass.py --device cpu --threads 1 --out benchmarks/results/one_pass_cpu.json

The loop runs over :func:`exml.engine.lowered` networks; the single pass stacks their weights and maps over them. On a
GPU both are also captured as CUDA graphs, as the engine does. All versions take turns; a ratio compares two times of
the same turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

sys.path.insert(0, str(Path(__file__).parent))
from measuring import CASES, arguments, median_and_quartiles, prepare, provenance, ratios, synchronize, trained_like

from exml.core.files import write_json
from exml.engine import lowered

EXPERTS = 5
BATCHES = (32, 128)
TURNS, WARM_UP = 15, 6
Version = Callable[[], Tensor]


def experts(model: str, device: torch.device) -> list[nn.Module]:
    """Five networks of one architecture, each with weights of its own."""
    torch.manual_seed(0)
    return [trained_like(CASES[model][0]()).to(device).eval().requires_grad_(False) for _ in range(EXPERTS)]


def versions(networks: Sequence[nn.Module], images: Tensor, stack: ExitStack) -> dict[str, Version]:
    """Logits ``(experts, batch, classes)``, by either way."""
    folded = [stack.enter_context(lowered(network, images[:2])) for network in networks]
    states = [network.state_dict() for network in folded]
    # As stack_module_state does, which takes modules of one class only; traced ones have a class each.
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def one(state: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(folded[0], state, (images,))

    mapped = vmap(one, in_dims=(0, None))

    @torch.no_grad()
    def loop() -> Tensor:
        return torch.stack([network(images) for network in folded])

    @torch.no_grad()
    def one_pass() -> Tensor:
        return mapped(stacked, images)

    return {"loop": loop, "one pass": one_pass}


def measure(model: str, batch: int, device: torch.device, turns: int) -> list[dict[str, Any]]:
    """The loop and the one pass in turns; on a GPU captured as well."""
    images = torch.randn(batch, *CASES[model][1][1:], generator=torch.Generator().manual_seed(0)).to(device)
    with ExitStack() as stack:
        forms = versions(experts(model, device), images, stack)
        plain, mapped = (form() for form in forms.values())
        difference = float((plain - mapped).abs().max() / plain.abs().max())
        forms = ratios.with_captured(forms, device.type)
        times: dict[str, list[float]] = {name: [] for name in forms}
        for turn in range(WARM_UP + turns):
            for name, form in forms.items():
                synchronize(device)
                began = time.perf_counter()
                form()
                synchronize(device)
                if turn >= WARM_UP:
                    times[name].append(1e3 * (time.perf_counter() - began))
    rows = []
    for mode in ("", ", captured") if device.type == "cuda" else ("",):
        loop, one_pass = times["loop" + mode], times["one pass" + mode]
        found = median_and_quartiles([a / b for a, b in zip(one_pass, loop, strict=True)])
        rows.append(
            {
                "model": model,
                "batch": batch,
                "mode": mode.removeprefix(", ") or "eager",
                "loop_ms": median_and_quartiles(loop)["median"],
                "one_pass_ms": median_and_quartiles(one_pass)["median"],
                "ratio": found["median"],
                "spread": found["spread"],
                "n": found["n"],
                "relative_difference": float(f"{difference:.2g}"),
            }
        )
    return rows


def main() -> None:
    """Measure and write."""
    parser = arguments(__doc__, "one_pass_cuda.json")
    given = parser.parse_args()
    device = prepare(given)
    rows: list[dict[str, Any]] = []
    turns = max(9, round(TURNS * min(1.0, given.scale)))
    for model in CASES:
        for batch in BATCHES:
            size = max(2, round(batch * min(1.0, given.scale)))
            rows += measure(model, size, device, turns)
            print(rows[-1], flush=True)
    write_json(given.out, {**provenance(device), "experts": EXPERTS, "rows": rows, "complete": True})


if __name__ == "__main__":
    main()
