"""Our hot loops compared with the bare step, measured in pairs within one run; prints JSON.

    uv run python benchmarks/ratios.py                  # on a CPU
    uv run python benchmarks/ratios.py --device cuda --out benchmarks/results/ratios_cuda.json

The bare step is the minimum that the same mathematics needs. For inversion: the frozen expert's forward pass, the
cross-entropy and the backward pass to the pixels. For distillation: the student's forward and backward passes and the
two teachers' forward passes. The fastest of several forms counts (the modules unchanged; channels last; batch norm
folded as well; on a GPU also each of these captured as a CUDA graph). Ours is the whole step of
:func:`exml.engine.invert` and :func:`exml.engine.distill`: priors, augmentation, optimizer, mini-batch, targets. A bare
step follows each of our steps, so other load on the machine affects both. A ``ratio`` is the median of the ratios of n
such pairs, ``spread`` their interquartile range; ``least`` is the ratio of the shortest times, the least noisy.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from pages import commit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import exml
from exml.augmentation import Augmentation
from exml.combiners import ProductOfExperts
from exml.core.files import write_text
from exml.engine import (
    DistillationContext,
    Execution,
    Goal,
    PreviousStudent,
    Teachers,
    Training,
    distill,
    invert,
    keep_freed_memory,
    lowered,
)
from exml.engine._steps import captured
from exml.generators import ModelInversion
from exml.losses import MeanSquaredError
from exml.models import LeNet5, SlimResNet18
from exml.normalizers import CenterLogits
from exml.priors import BatchNormStatistics, GaussianBlur, L2Norm, Sum
from exml.protocols import GenerationContext
from exml.runs.environment import environment

WARM_UP = 8
CLASSES = 10
CIFAR10 = Augmentation.cifar10()
Step = Callable[[], Any]

INVERSIONS: dict[str, tuple[type[nn.Module], tuple[int, ...], Any, Augmentation]] = {
    "inversion slim-resnet18 128x3x32x32": (
        SlimResNet18,
        (128, 3, 32, 32),
        Sum((L2Norm(1e-4), GaussianBlur(1e-2), BatchNormStatistics(1.0))),
        CIFAR10,
    ),
    "inversion lenet5 512x1x32x32": (
        LeNet5,
        (512, 1, 32, 32),
        Sum((L2Norm(1e-3), GaussianBlur(1e-3))),
        Augmentation.mnist(),
    ),
}
DISTILLATIONS = {f"distillation slim-resnet18 {size}x3x32x32": (size, 3, 32, 32) for size in (32, 128)}
MEMORY = "memory of inversion slim-resnet18 128x3x32x32"
TIME = "time to the straightforward accuracy, mnist-nc"
PLAIN, FOLDED = "as it is", "channels last, folded"


class AfterEveryStep:
    """Called after every step of a hot loop: as ``after_step`` of a distillation, or as the journal of an inversion."""

    def __call__(self, *_: Any) -> None:
        """A step is over."""

    def restore(self) -> None:
        """None: there is nothing to resume."""

    def record(self, _done: int, _total: int, _state: Any, /) -> None:
        """A step is over."""
        self()


class Pairs(AfterEveryStep):
    """Times of our steps, and of a bare step after each of them."""

    def __init__(self, bare: Step, device: str) -> None:
        self._bare, self._device = bare, device
        self.ours: list[float] = []
        self.bare: list[float] = []
        self._began = self._now()

    def __call__(self, *_: Any) -> None:
        """One of our steps is over."""
        ended = self._now()
        self._bare()
        after = self._now()
        self.ours.append(1e3 * (ended - self._began))
        self.bare.append(1e3 * (after - ended))
        self._began = self._now()

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def row(self, form: str) -> dict[str, Any]:
        """The published numbers of the pairs after the warm-up."""
        ours, bare = self.ours[WARM_UP:], self.bare[WARM_UP:]
        ratios = [a / b for a, b in zip(ours, bare, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        return {
            "ours_ms": round(statistics.median(ours), 3),
            "bare_ms": round(statistics.median(bare), 3),
            "ratio": round(statistics.median(ratios), 3),
            "n": len(ratios),
            "spread": [round(quartiles[0], 3), round(quartiles[2], 3)],
            "least": round(min(ours) / min(bare), 3),
            "bare_form": form,
        }


def fastest(forms: dict[str, Step], device: str) -> tuple[str, Step, dict[str, float]]:
    """The form of the bare step with the shortest median; the forms take turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(WARM_UP if device == "cuda" else 6):
        for name, step in forms.items():
            pairs = Pairs(step, device)
            pairs()
            if turn:
                times[name].append(pairs.bare[0])
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    best = min(medians, key=lambda name: medians[name])
    return best, forms[best], medians


def with_captured(forms: dict[str, Step], device: str) -> dict[str, Step]:
    """On a GPU, each form as a CUDA graph too."""
    if device != "cuda":
        return forms
    graphs = {f"{name}, captured": captured(step, (), torch.device("cuda")) for name, step in forms.items()}
    return {**forms, **graphs}


def trained_like(module: nn.Module) -> nn.Module:
    """Give batch-norm layers statistics and weights like those after training; in a new module all are 0 or 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0.0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0.0, 0.1)
    return module


def bare_inversions(network: nn.Module, images: Tensor, stack: ExitStack) -> dict[str, Step]:
    """The bare inversion step, in every form."""
    labels = torch.arange(len(images), device=images.device) % 10
    pixels = images.detach().clone().requires_grad_()

    def step(form: nn.Module) -> Tensor:
        return torch.autograd.grad(cross_entropy(form(pixels), labels, reduction="sum"), pixels)[0]

    forms = {
        PLAIN: network,
        "channels last": copy.deepcopy(network).to(memory_format=torch.channels_last),
        FOLDED: stack.enter_context(lowered(network, images[:2])),
    }
    return {name: partial(step, form) for name, form in forms.items()}


def towards_classes(count: int, device: torch.device | str) -> Goal:
    """Images of the ten classes in turn."""
    labels = torch.arange(count, device=device) % CLASSES
    return Goal(lambda logits, rows: cross_entropy(logits, labels[rows], reduction="none"))


def our_inversion(case: str, network: nn.Module, images: Tensor, steps: int, **context: Any) -> Tensor:
    """Some steps of :func:`exml.engine.invert` with the settings of the case."""
    _, _, prior, augmentation = INVERSIONS[case]
    chosen = GenerationContext(**{"prior": prior, "augmentation": augmentation, **context})
    goal = towards_classes(len(images), images.device)
    return invert(network, images, ModelInversion(iterations=steps), goal, seed=0, context=chosen)


def our_distillation(
    modules: Sequence[nn.Module], memory: exml.Samples, training: Training, augmentation: Any = CIFAR10, **live: Any
) -> nn.Module:
    """Some steps of :func:`exml.engine.distill` in the second experience: student, expert and previous student."""
    student, teacher, earlier = modules
    known = torch.arange(CLASSES, device=memory.images.device) < CLASSES // 2
    expert = exml.Expert(teacher, range(CLASSES // 2, CLASSES), memory.images.shape[1:], outputs=range(CLASSES))
    previous = PreviousStudent(earlier, known, torch.ones_like(known))
    teachers = Teachers(previous, expert, CenterLogits(), ProductOfExperts(), CLASSES)
    context = DistillationContext(**{"seed": 0, **live})
    parts = {"loss": MeanSquaredError(), "training": training, "augmentation": augmentation}
    distill(student, teachers, memory, **parts, context=context)
    return student


def inversion(case: str, device: str, turns: int, execution: Execution) -> dict[str, Any]:
    """One row of the table."""
    model, shape, _, _ = INVERSIONS[case]
    torch.manual_seed(0)
    network = trained_like(model()).to(device).eval().requires_grad_(False)
    images = torch.randn(shape, device=device)
    with ExitStack() as stack:
        name, bare, medians = fastest(with_captured(bare_inversions(network, images, stack), device), device)
        pairs = Pairs(bare, device)
        our_inversion(case, network, images, WARM_UP + turns, journal=pairs, execution=execution)
    return {**pairs.row(name), "bare_forms_ms": medians}


def distillation(case: str, device: str, turns: int, execution: Execution) -> dict[str, Any]:
    """One row of the table, in the second experience: with both teachers."""
    shape = DISTILLATIONS[case]
    torch.manual_seed(0)
    student, teacher, earlier = (trained_like(SlimResNet18()).to(device) for _ in range(3))
    memory = exml.Samples.of(
        torch.rand(2_000, *shape[1:], device=device), torch.arange(2_000, device=device) % 10, experience=1
    )
    training = Training(iterations=WARM_UP + turns, batch_size=shape[0], learning_rate=0.01, momentum=0.9)
    with ExitStack() as stack:
        forms = bare_distillations(student, teacher, earlier, memory.images[: shape[0]], stack)
        name, bare, medians = fastest(with_captured(forms, device), device)
        pairs = Pairs(bare, device)
        our_distillation((student, teacher, earlier), memory, training, after_step=pairs, execution=execution)
    return {**pairs.row(name), "bare_forms_ms": medians}


def bare_distillations(
    student: nn.Module, teacher: nn.Module, earlier: nn.Module, images: Tensor, stack: ExitStack
) -> dict[str, Step]:
    """The bare distillation step, in every form, each with modules of its own."""

    def step(pupil: nn.Module, new: nn.Module, old: nn.Module) -> None:
        with torch.no_grad():
            target = new(images) + old(images)
        for parameter in pupil.parameters():
            parameter.grad = None
        mse_loss(pupil(images), target).backward()

    def own(module: nn.Module, *, train: bool) -> nn.Module:
        return copy.deepcopy(module).train(train).requires_grad_(train)

    plain = [own(student, train=True), own(teacher, train=False), own(earlier, train=False)]
    last = [copy.deepcopy(module).to(memory_format=torch.channels_last) for module in plain]
    folded = [copy.deepcopy(last[0]), *(stack.enter_context(lowered(module, images[:2])) for module in plain[1:])]
    forms = {"as they are": plain, "channels last": last, "channels last, teachers folded": folded}
    return {name: partial(step, *modules) for name, modules in forms.items()}


def peak_bytes(run: Step, device: str) -> int:
    """The most memory that tensors took during a run, beyond what they took before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def memory(device: str, execution: Execution) -> dict[str, Any]:
    """Peak memory of two of our inversion steps, and of a bare one in every form.

    ``ratio`` compares with the bare step on unchanged modules. With batch norm folded, a bare step saves half as much
    for its backward pass; batch-norm statistics need the other half: ``ratio_to_folded``.
    """
    case = "inversion slim-resnet18 128x3x32x32"
    model, shape, _, _ = INVERSIONS[case]
    torch.manual_seed(0)
    network = trained_like(model()).to(device).eval().requires_grad_(False)
    images = torch.randn(shape, device=device)
    with ExitStack() as stack:
        forms = bare_inversions(network, images, stack)
        bare = {name: peak_bytes(step, device) / 2**20 for name, step in forms.items()}
    ours = peak_bytes(lambda: our_inversion(case, network, images, 2, execution=execution), device)
    return {
        "ours_mb": round(ours / 2**20, 1),
        "bare_mb": round(bare[PLAIN], 1),
        "ratio": round(ours / 2**20 / bare[PLAIN], 3),
        "ratio_to_folded": round(ours / 2**20 / bare[FOLDED], 3),
        "n": 1,
        "spread": [],
        "bare_forms_mb": {name: round(value, 1) for name, value in bare.items()},
    }


def time_to_accuracy() -> dict[str, Any]:
    """The last result of ``time_to_accuracy.py``, which takes longer than all other rows together."""
    path = Path(__file__).parent / "results" / "time_to_accuracy.json"
    if not path.exists():
        return {"ratio": None, "reason": "not measured yet: run benchmarks/time_to_accuracy.py"}
    found = json.loads(path.read_text(encoding="utf-8"))
    most = max(found["scenarios"]["mnist-nc"], key=lambda entry: entry["budget"])
    ratio, seconds = most["ratio"], most["straightforward_seconds"]["median"]
    return {
        "ours_ms": None if ratio is None else round(1e3 * seconds * ratio["median"]),
        "bare_ms": round(1e3 * seconds),
        "ratio": None if ratio is None else ratio["median"],
        "n": most["n"],
        "spread": [] if ratio is None else [ratio["least"], ratio["greatest"]],
        "budget": most["budget"],
        "from": f"benchmarks/results/{path.name}",
        "commits": found["commits"],
    }


def described(device: str) -> dict[str, Any]:
    """The hardware, the versions and the commit of this measurement."""
    return {**attrs.asdict(environment(torch.device(device))), "commit": os.environ.get("EXML_COMMIT") or commit()}


def main() -> None:
    """Measure the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [*INVERSIONS, *DISTILLATIONS, TIME, MEMORY]
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--turns", type=int, default=15, help="pairs of steps that are measured, >= 7")
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--compile", default="capture", choices=["never", "capture", "always"], help="of our steps")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: as torch chooses")
    parser.add_argument("--out", type=Path, default=None, help="a file for the JSON")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = arguments.device
    keep_freed_memory()
    execution = Execution(arguments.compile)
    table: dict[str, Any] = {}
    for row in arguments.rows:
        if row in INVERSIONS:
            table[row] = inversion(row, device, arguments.turns, execution)
        elif row in DISTILLATIONS:
            table[row] = distillation(row, device, arguments.turns, execution)
        else:
            table[row] = memory(device, execution) if row == MEMORY else time_to_accuracy()
    text = json.dumps({"environment": described(device), "compile": arguments.compile, "rows": table}, indent=1)
    if arguments.out is not None:
        write_text(arguments.out, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
