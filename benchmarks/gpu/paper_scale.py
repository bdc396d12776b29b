"""Ex-Model Distillation with the paper's settings for CIFAR-10, and where the time goes, phase by phase.

    uv run python -u benchmarks/gpu/paper_scale.py --work DIR                  # on a GPU; resumes after a kill
    uv run python -u benchmarks/gpu/paper_scale.py --device cpu --scale 0.001 --work DIR --out /tmp/paper.json

Model Inversion ED of appendices B.2 and B.2.1: 5,000 images, 500 iterations of inversion at 0.1 in mini-batches of
1,024, then 50,000 iterations of SGD at 0.1 in mini-batches of 32, in each of five experiences; SlimResNet18 as experts
and student. The images of the experts are not CIFAR-10 but made up: each class is a pattern of its own under noise,
shifted at random. What is measured is time; the accuracy only shows that something was learned. ``--scale`` shrinks
the iterations of both phases and the buffer. One thing is not in the paper: gradients are clipped to norm 1, without
which SGD at 0.1 diverges with these experts.

Seconds are those of generation and of distillation as the learner tells of them, each with its checkpoints. They are
kept with every checkpoint, so a resumed run adds to them; what was computed after the last checkpoint
is computed, and counted, again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from measuring import arguments, prepare, provenance, synchronize

import exml
from exml.augmentation import Augmentation
from exml.combiners import ByClass
from exml.core.files import write_json
from exml.core.samples import Samples
from exml.engine import Execution
from exml.experts import ExpertTraining, save_expert, train_expert
from exml.generators import ModelInversion
from exml.learning import events
from exml.learning.checkpoint import CheckpointFolder
from exml.learning.strategy import Strategy
from exml.losses import Distillation
from exml.models import SlimResNet18
from exml.normalizers import CenterLogits
from exml.priors import GaussianBlur, L2Norm

EXPERTS, CLASSES, SHAPE = 5, 10, (3, 32, 32)
IMAGES = 200
"""Of each class, to train an expert on; and the same number to test on."""


def strategy(scale: float) -> Strategy:
    """Model Inversion ED of appendices B.2 and B.2.1; the weight of its batch-norm prior is 0 there."""

    def scaled(iterations: int) -> int:
        return max(2, round(iterations * scale))

    return (
        exml.StrategyBuilder()
        .generator(ModelInversion(iterations=scaled(500), learning_rate=0.1, temperature=2.0, batch_size=1_024))
        .priors(L2Norm(1e-4), GaussianBlur(0.01))
        .augmentation(Augmentation.cifar10())
        .normalizer(CenterLogits())
        .combiner(ByClass())
        .buffer(exml.buffers.Cumulative(max(50, scaled(5_000))))
        .loss(Distillation(cross_entropy=1.0))
        .training(exml.Training(iterations=scaled(50_000), batch_size=32, learning_rate=0.1, clip_norm=1.0))
        .build()
    )


def images_of(label: int, count: int, seed: int) -> Tensor:
    """Images of a class: its pattern of 4 x 4 colors, enlarged, shifted at random, under noise."""
    pattern = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(label))
    pattern = torch.nn.functional.interpolate(pattern, size=SHAPE[1:], mode="bilinear").expand(count, -1, -1, -1)
    draws = torch.Generator().manual_seed(1_000 * seed + label)
    shifted = Augmentation(shift=4)(pattern.contiguous(), draws)
    return (shifted + 0.1 * torch.randn(count, *SHAPE, generator=draws)).clamp(0, 1)


def samples_of(classes: tuple[int, ...], count: int, seed: int) -> Samples:
    """Images of some classes."""
    labels = torch.tensor(classes).repeat_interleave(count)
    return Samples.of(torch.cat([images_of(label, count, seed) for label in classes]), labels)


def experts(folder: Path, device: torch.device, scale: float) -> exml.ExpertStream:
    """Five experts of two classes each, briefly trained and kept: a resumed run needs the same ones."""
    training = ExpertTraining(epochs=max(1, round(5 * min(1.0, scale))), learning_rate=0.05)
    count = max(8, round(IMAGES * min(1.0, scale)))
    for number in range(EXPERTS):
        name = f"expert-{number + 1}"
        if (folder / f"{name}.json").exists():  # the card is written after the weights
            continue
        torch.manual_seed(number)
        module = SlimResNet18(classes=2).to(device)
        samples = samples_of((2 * number, 2 * number + 1), count, seed=number)
        save_expert(train_expert(module, samples, training=training, seed=number, name=name), folder)
    return exml.ExpertStream.from_folder(folder)


@attrs.define
class Phases:
    """A learner's observer that adds up the seconds by experience and phase, and keeps them in a file."""

    device: torch.device
    path: Path
    seconds: dict[str, dict[str, float]] = attrs.field(factory=dict)
    _experience: int = 0
    _phase: str = "generation"
    _since: float = 0.0

    def __call__(self, event: events.Event, /) -> None:
        """Something happened."""
        match event:
            case events.ExperienceStarted(experience=experience):
                self._experience, self._phase, self._since = experience, "generation", time.perf_counter()
            case events.GenerationProgress():
                self._phase = "generation"
            case events.BufferUpdated():
                self._phase = "generation"
                self._add()
            case events.DistillationProgress():
                self._phase = "distillation"
            case events.ExperienceFinished(experience=experience):
                self._add()
                print(f"experience {experience}: {self.seconds[str(experience)]}", flush=True)
                self._keep()
            case events.CheckpointWritten():
                if self._experience:
                    self._add()
                    self._keep()

    def _keep(self) -> None:
        write_json(self.path, self.seconds)

    def _add(self) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        phases = self.seconds.setdefault(str(self._experience), {})
        phases[self._phase] = round(phases.get(self._phase, 0.0) + now - self._since, 3)
        self._since = now


@torch.no_grad()
def accuracy(student: torch.nn.Module, device: torch.device) -> float:
    """In percent, over all classes, on images that nothing was trained on."""
    test = samples_of(tuple(range(CLASSES)), IMAGES // 4, seed=99).to(device)
    student.eval()
    right = [student(test.images[rows]).argmax(1) == test.labels[rows] for rows in torch.arange(len(test)).split(256)]
    return round(100 * float(torch.cat(right).float().mean()), 2)


def main() -> None:
    """Learn the stream, or resume it, and write the measurements."""
    parser = arguments(__doc__, "paper_scale_cuda.json")
    parser.add_argument("--work", type=Path, default=Path("runs/paper-scale"), help="folder for the checkpoints")
    parser.add_argument("--compile", default="auto", choices=["never", "capture", "always", "auto"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    device = prepare(given)
    execution = Execution(compile=given.compile, precision=given.precision)
    chosen = strategy(given.scale)
    phases = Phases(device, given.work / "seconds.json")
    torch.manual_seed(0)
    student = SlimResNet18(classes=CLASSES).to(device)
    stream = experts(given.work / "experts", device, given.scale)
    options: dict[str, Any] = {"execution": execution, "observers": [phases]}
    checkpoints = CheckpointFolder(given.work / "checkpoints", every=max(1, chosen.training.iterations // 20))
    resumed = checkpoints.exists()
    if resumed:
        learner = exml.Learner(chosen, student, **options).resume(checkpoints)
        if phases.path.exists():
            phases.seconds = json.loads(phases.path.read_text(encoding="utf-8"))
    else:
        learner = exml.Learner(chosen, student, folder=checkpoints, **options)
    print("resumed after" if resumed else "begun,", learner.experience, "experiences", flush=True)
    learner.learn_stream(stream)
    totals = {
        phase: round(sum(seconds.get(phase, 0.0) for seconds in phases.seconds.values()), 2)
        for phase in ("generation", "distillation")
    }
    found = {
        **provenance(device),
        "scale": given.scale,
        "compile": given.compile,
        "precision": given.precision,
        "resumed": resumed,
        "n": 1,
        "strategy": chosen.to_dict(),
        "experiences": phases.seconds,
        "seconds": totals,
        "accuracy": accuracy(learner.student, device),
        "complete": True,
    }
    write_json(given.out, found)
    print(json.dumps({key: found[key] for key in ("seconds", "accuracy")}), flush=True)


if __name__ == "__main__":
    main()
