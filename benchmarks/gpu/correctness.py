"""Correctness on a GPU: the engine's loops against float64 on the CPU, and each form against the others.

    uv run python -u benchmarks/gpu/correctness.py                             # on a GPU
    uv run python -u benchmarks/gpu/correctness.py --device cpu --scale 0.02 --out /tmp/correctness_cpu.json

The error of a loop is the difference of two results relative to the change of the exact one, both as Euclidean norms.
Tolerances are wider than those of one operation: rounding decides on which side of 0 an input of a ReLU lies (one
gradient of the ResNet in plain PyTorch differs by up to 0.3 % between float32 and float64), and Adam divides a gradient
by its size, so the direction of a pixel whose gradient is nearly 0 also depends on rounding. TF32 is off. Both devices
get the same images, weights, augmentations and mini-batches.

A check that raises an error has failed; the others still run. On a CPU, checks that need a GPU are skipped.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from measuring import CASES, Distillation, Inversion, Launches, arguments, prepare, provenance
from ratios import AfterEveryStep

from exml.augmentation import Augmentation
from exml.core.files import write_json
from exml.engine import EAGER, Execution, ExecutionWarning
from exml.protocols import NoJournal

EXACT = 2e-2
"""Of float32 against float64, relative to the change."""
FORMS = 5e-2
"""Of two forms of execution in float32, and of two runs, whose sums may be added up in another order."""
HALF = 0.5
"""Of bfloat16, whose numbers have 8 bits, in an inversion; the images must be as good, see ``AS_GOOD``."""
HALF_WEIGHTS = 0.3
"""Of bfloat16 in a distillation."""
AS_GOOD = 0.1
"""How much worse, in nats of the cross-entropy, images made in bfloat16 may be."""
OTHER_LAUNCHES = 12
"""Next to the graph: seeds, learning rate and the arguments of a step."""
SWITCH_ON = 8
"""Steps after which no step may wait for the device: past compilation and capture."""
STEPS = 6
SLOW = 1e-4
"""Learning rate of the distillations: at a higher one, rounding grows with every step of SGD with momentum."""
EXECUTIONS = {"eager": EAGER, "capture": Execution("capture"), "always": Execution("always")}
Report = dict[str, Any]


@attrs.frozen(eq=False)
class Drawn:
    """An augmentation whose parameters are the same on every device."""

    augmentation: Augmentation
    draws: Tensor

    def __call__(self, images: Tensor, _: torch.Generator, /) -> Tensor:
        """Augment."""
        return self.augmentation.apply(images, self.draws.to(images.device))


@attrs.frozen(eq=False)
class These:
    """The same images on every device, instead of a mini-batch that each device draws in its own way."""

    images: Tensor

    def __call__(self, images: Tensor, _: torch.Generator, /) -> Tensor:
        """Return them."""
        return self.images.to(images)


@attrs.frozen
class Setting:
    """What every check is given: the device, the scale of mini-batches and the execution of the fastest form."""

    device: torch.device
    scale: float
    always: Execution

    def inversion(self, model: str, batch: int, **changes: Any) -> Inversion:
        """On the device, unless ``changes`` names another."""
        return Inversion(model, max(4, round(batch * self.scale)), **{"device": self.device, **changes})

    def distillation(self, model: str, batch: int, **changes: Any) -> Distillation:
        """On the device, unless ``changes`` names another."""
        return Distillation(model, max(4, round(batch * self.scale)), **{"device": self.device, **changes})


def relative(result: Tensor, exact: Tensor, start: Tensor) -> float:
    """How far a result is from the exact one, relative to the way from the start."""
    result, exact, start = (tensor.detach().double().cpu() for tensor in (result, exact, start))
    return float((result - exact).norm() / (exact - start).norm())


def within(tolerance: float, **found: float) -> Report:
    """Passed if all that was found is finite and within the tolerance."""
    return {
        "passed": all(value <= tolerance for value in found.values()),
        "tolerance": tolerance,
        **{name: float(f"{value:.3g}") for name, value in found.items()},
    }


def weights(module: nn.Module) -> Tensor:
    """All parameters of a module, in one order."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def exact_inversion(setting: Setting, model: str, batch: int) -> Report:
    """Eager in float32 against the CPU in float64, with priors and augmentation."""
    size = setting.inversion(model, batch).batch
    drawn = Drawn(CASES[model][3], torch.rand(8, size, generator=torch.Generator().manual_seed(2)))
    results = [
        setting.inversion(model, batch, augmentation=drawn, **place)(STEPS, NoJournal(), learning_rate=0.01)
        for place in ({}, {"device": torch.device("cpu"), "dtype": torch.float64})
    ]
    return within(EXACT, difference=relative(*results, setting.inversion(model, batch).start()))


def exact_distillation(setting: Setting, model: str, batch: int) -> Report:
    """Eager in float32 against the CPU in float64."""
    size = setting.distillation(model, batch).batch
    shape = CASES[model][1][1:]
    images = These(torch.rand(size, *shape, generator=torch.Generator().manual_seed(2)))
    results = [
        weights(setting.distillation(model, batch, augmentation=images, **place)(STEPS, ignore, learning_rate=SLOW))
        for place in ({}, {"device": torch.device("cpu"), "dtype": torch.float64})
    ]
    return within(EXACT, difference=relative(*results, weights(setting.distillation(model, batch).students()[0])))


def ignore(_done: int, _loss: Tensor) -> None:
    """After a step, do nothing."""


def forms_of_inversion(setting: Setting, model: str, batch: int) -> Report:
    """Compiled and captured against eager, with the random augmentation; no form may have fallen back."""
    inversion = setting.inversion(model, batch)
    eager = inversion(2 * STEPS, NoJournal(), learning_rate=0.01)
    other, fell_back = warned(lambda: inversion(2 * STEPS, NoJournal(), setting.always, learning_rate=0.01))
    report = within(FORMS, difference=relative(other, eager, inversion.start()))
    return report | {"passed": report["passed"] and not fell_back, "fell_back": fell_back}


def forms_of_distillation(setting: Setting, model: str, batch: int) -> Report:
    """Compiled and captured against eager, with random mini-batches and augmentation; none may have fallen back."""
    distillation = setting.distillation(model, batch)
    eager = distillation(2 * STEPS, ignore, learning_rate=SLOW)
    other, fell_back = warned(lambda: distillation(2 * STEPS, ignore, setting.always, learning_rate=SLOW))
    start = weights(distillation.students()[0])
    statistics = zip(other.buffers(), eager.buffers(), strict=True)
    found = {
        "difference": relative(weights(other), weights(eager), start),
        "running_statistics": max(float((a - b).abs().max()) for a, b in statistics) if list(eager.buffers()) else 0.0,
    }
    report = within(FORMS, **found)
    return report | {"passed": report["passed"] and not fell_back, "fell_back": fell_back}


def warned(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The result of the work, and the warnings about forms that failed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExecutionWarning)
        result = work()
    return result, sorted(
        {str(warning.message) for warning in caught if issubclass(warning.category, ExecutionWarning)}
    )


def half_inversion(setting: Setting, model: str, batch: int) -> Report:
    """bfloat16 against float32: how far apart, and whether the images are as good for the network in float32."""
    inversion = setting.inversion(model, batch)
    network = inversion.network().eval()
    full, half = (
        inversion(5 * STEPS, NoJournal(), Execution(precision=precision), learning_rate=0.05, network=network)
        for precision in ("float32", "bfloat16")
    )
    with torch.no_grad():
        losses = [float(nn.functional.cross_entropy(network(images), inversion.labels())) for images in (full, half)]
    report = within(HALF, difference=relative(half, full, inversion.start()))
    good = losses[1] <= losses[0] + AS_GOOD
    return report | {"passed": report["passed"] and good, "cross_entropy": [round(loss, 5) for loss in losses]}


def half_distillation(setting: Setting, model: str, batch: int) -> Report:
    """bfloat16 against float32."""
    distillation = setting.distillation(model, batch)
    full, half = (
        weights(distillation(2 * STEPS, ignore, Execution(precision=precision), learning_rate=SLOW))
        for precision in ("float32", "bfloat16")
    )
    return within(HALF_WEIGHTS, difference=relative(half, full, weights(distillation.students()[0])))


def seeds(setting: Setting) -> Report:
    """The same seed gives the same result, another seed a different one; equality of bits is reported only."""
    inversion, distillation = setting.inversion("slim-resnet18", 32), setting.distillation("slim-resnet18", 32)
    images = [inversion(STEPS, NoJournal(), seed=seed, learning_rate=0.01) for seed in (0, 0, 1)]
    students = [weights(distillation(STEPS, ignore, learning_rate=SLOW, seed=seed)) for seed in (0, 0, 1)]
    starts = inversion.start(), weights(distillation.students()[0])
    same = within(
        FORMS,
        inversion=relative(images[1], images[0], starts[0]),
        distillation=relative(students[1], students[0], starts[1]),
    )
    other = min(relative(images[2], images[0], starts[0]), relative(students[2], students[0], starts[1]))
    bitwise = torch.equal(images[0], images[1]), torch.equal(students[0], students[1])
    found = {"another_seed": float(f"{other:.3g}"), "bit_for_bit": dict(zip(LOOPS, bitwise, strict=True))}
    return same | {"passed": same["passed"] and other > FORMS, **found}


@attrs.define
class NoWaiting(AfterEveryStep):
    """Makes every step that waits for the device an error, from the end of the warm-up to the last step.

    The warm-up compiles, captures and allocates; the result is read after the last step.
    """

    device: torch.device
    total: int
    done: int = 0

    def __call__(self, *_: Any) -> None:
        """A step is over."""
        self.done += 1
        if self.device.type == "cuda" and self.done in (SWITCH_ON, self.total):
            torch.cuda.set_sync_debug_mode("error" if self.done == SWITCH_ON else "default")


def no_waiting(setting: Setting) -> Report:
    """No step waits for the device: an error of ``torch.cuda.set_sync_debug_mode`` if one does."""
    require_gpu(setting)
    found: Report = {}
    total = SWITCH_ON + 8
    for name, execution in EXECUTIONS.items():
        for loop, work in LOOPS.items():
            journal = NoWaiting(setting.device, total)
            try:
                _, fell_back = warned(lambda: work(setting)(total, journal, execution))  # noqa: B023 - called at once
                found[f"{loop}, {name}"] = "; ".join(fell_back) or "no step waits"
            except Exception as error:
                found[f"{loop}, {name}"] = f"step {journal.done + 1}: {type(error).__name__}: {error}"
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return {"passed": set(found.values()) == {"no step waits"}, "steps_checked": total - SWITCH_ON, **found}


def detects_waiting(setting: Setting) -> Report:
    """The check above can fail: reading a number back is found."""
    require_gpu(setting)
    numbers = torch.ones(2, device=setting.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers.sum().item()
    except RuntimeError:
        return {"passed": True}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"passed": False}


def launches(setting: Setting) -> Report:
    """What a step launches; a captured step must launch one graph and little else."""
    require_gpu(setting)
    found: Report = {}
    for name, execution in EXECUTIONS.items():
        for loop, work in LOOPS.items():
            counted = Launches(setting.device, SWITCH_ON)
            work(setting)(counted.steps, counted, execution)
            found[f"{loop}, {name}"] = counted.a_step
    captured = [found[f"{loop}, capture"] for loop in LOOPS]
    return {
        "passed": all(a["graph_launches"] == 1 and a["kernel_launches"] <= OTHER_LAUNCHES for a in captured),
        "most_beside_the_graph": OTHER_LAUNCHES,
        **found,
    }


def untouched(setting: Setting) -> Report:
    """After an inversion the expert's module is as it was: no hook, no gradient, the same mode and the same weights."""
    inversion = setting.inversion("slim-resnet18", 8)
    network = inversion.network().train()
    before = copy.deepcopy(network.state_dict())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    for execution in (EAGER, setting.always):
        inversion(STEPS, NoJournal(), execution, network=network)
    found = {
        "hooks": sum(len(getattr(part, kind)) for part in network.modules() for kind in kinds),
        "gradients": sum(parameter.grad is not None for parameter in network.parameters()),
        "frozen": sum(not parameter.requires_grad for parameter in network.parameters()),
        "changed": sum(not torch.equal(value, before[name]) for name, value in network.state_dict().items()),
        "modes": sum(not part.training for part in network.modules()),
    }
    return {"passed": not any(found.values()), **found}


LOOPS: dict[str, Callable[[Setting], Any]] = {
    "inversion": lambda setting: setting.inversion("slim-resnet18", 32),
    "distillation": lambda setting: setting.distillation("slim-resnet18", 32),
}


class NeedsGpuError(Exception):
    """Not to be checked here."""


def require_gpu(setting: Setting) -> None:
    """Leave out a check that makes no sense elsewhere."""
    if setting.device.type != "cuda":
        raise NeedsGpuError


def on(check: Callable[[Setting, str, int], Report], model: str, batch: int) -> Callable[[Setting], Report]:
    """A check of one model."""
    return lambda setting: check(setting, model, batch)


CHECKS: dict[str, Callable[[Setting], Report]] = {
    "inversion slim-resnet18, float32 against float64 on the CPU": on(exact_inversion, "slim-resnet18", 32),
    "inversion lenet5, float32 against float64 on the CPU": on(exact_inversion, "lenet5", 64),
    "distillation slim-resnet18, float32 against float64 on the CPU": on(exact_distillation, "slim-resnet18", 32),
    "distillation lenet5, float32 against float64 on the CPU": on(exact_distillation, "lenet5", 32),
    "no step waits for the device": no_waiting,
    "a step that waits is found": detects_waiting,
    "inversion slim-resnet18, compiled and captured against eager": on(forms_of_inversion, "slim-resnet18", 32),
    "inversion lenet5, compiled and captured against eager": on(forms_of_inversion, "lenet5", 64),
    "distillation slim-resnet18, compiled and captured against eager": on(forms_of_distillation, "slim-resnet18", 32),
    "inversion slim-resnet18, bfloat16 against float32": on(half_inversion, "slim-resnet18", 32),
    "inversion lenet5, bfloat16 against float32": on(half_inversion, "lenet5", 64),
    "distillation slim-resnet18, bfloat16 against float32": on(half_distillation, "slim-resnet18", 32),
    "the same seed gives the same result": seeds,
    "the expert is left as it was": untouched,
    "launches a step": launches,  # last: the profiler stays in the process
}


def main() -> None:
    """Make every check and write what was found."""
    parser = arguments(__doc__, "correctness_cuda.json")
    parser.add_argument("--forms", default="always", choices=["always", "never"], help="never: try without a compiler")
    parser.add_argument("--checks", nargs="+", default=list(CHECKS), choices=list(CHECKS), metavar="CHECK")
    given = parser.parse_args()
    device = prepare(given)
    torch.backends.cudnn.allow_tf32 = False
    setting = Setting(device, min(1.0, given.scale), Execution(compile=given.forms))
    found: dict[str, Any] = {**provenance(device), "steps": STEPS, "complete": False, "checks": {}}
    for name in given.checks:
        torch.compiler.reset()  # code is compiled for some modules of a class only, then given up
        try:
            report = CHECKS[name](setting)
        except NeedsGpuError:
            report = {"passed": None, "reason": "needs a GPU"}
        except Exception as error:
            report = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        found["checks"][name] = report
        print(name, report, flush=True)
        write_json(given.out, found)
    passed = all(report["passed"] is not False for report in found["checks"].values())
    write_json(given.out, found | {"passed": passed, "complete": True})
    sys.exit(not passed)


if __name__ == "__main__":
    main()
