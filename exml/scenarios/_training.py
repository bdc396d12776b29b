"""Trains the experts of a scenario, saves them, and trains none twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch

from exml.core.errors import ConfigError, ExpertError
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.core.samples import Samples
from exml.core.serialization import from_plain, to_plain
from exml.experts import ExpertStream, ExpertTraining, load_expert, read_card, save_expert

BATCH = 500
"""Images per forward pass when the accuracy is measured."""
Progress = Callable[[int, int], None]


@attrs.frozen(eq=False, kw_only=True)
class ExpertJob:
    """One expert that is to be trained.

    Args:
        index: i of its experience, from 1.
        make: the expert with its initial weights.
        train: the samples that it is trained on.
        held_out: samples that its accuracy is measured on, if any.
        training: the settings.
        record: everything that its weights depend on, as JSON.
    """

    index: int
    make: Callable[[], Expert]
    train: Samples
    held_out: Samples | None
    training: ExpertTraining
    record: dict[str, Any]

    def __call__(self, seed: int, device: torch.device | str, progress: Progress, checkpoint: Path | None) -> Expert:
        """Train the expert."""
        expert = self.make().to(device)
        self.training(expert, self.train, seed, progress, checkpoint)
        return expert

    def save(self, expert: Expert, path: Path) -> None:
        """Write the expert and its card."""
        record, accuracy = self.record, None
        if self.held_out is not None:
            accuracy = _accuracy(expert, self.held_out)
            record = record | {"accuracy": {"split": "validation", "images": len(self.held_out)}}
        save_expert(expert.to("cpu"), path.parent, path.stem, order=self.index, accuracy=accuracy, training=record)

    def is_done(self, path: Path) -> bool:
        """Whether the expert of this record is at the path, whole."""
        try:
            training = dict(read_card(path).training)
            # A card from before a setting was added has the same settings.
            training["settings"] = to_plain(from_plain(training.get("settings"), ExpertTraining))
            if any(training.get(name) != value for name, value in self.record.items()):
                return False
            load_expert(path)
        except (ExpertError, ConfigError):
            return False
        return True


def train_experts(
    jobs: Sequence[ExpertJob],
    seed: int,
    folder: Path | None,
    device: torch.device | str,
    progress: Progress,
    ranks: Ranks,
) -> ExpertStream:
    """Train all experts, those of a folder in turns by the ranks; see :meth:`Scenario.train_experts`."""
    epochs = jobs[0].training.epochs  # they are trained alike
    total = len(jobs) * epochs

    def report(before: int, epoch: int, _: int) -> None:
        progress(before + epoch, total)

    reports = [partial(report, number * epochs) for number in range(len(jobs))]
    if folder is None:
        pairs = zip(jobs, reports, strict=True)
        return ExpertStream.from_experts([job(seed, device, told, None).to("cpu") for job, told in pairs])
    paths = [folder / f"expert-{job.index}.json" for job in jobs]
    for job, path, told in [*zip(jobs, paths, reports, strict=True)][ranks.rank :: ranks.size]:
        checkpoint = path.with_suffix(".training")
        if job.is_done(path):
            told(epochs, epochs)
        else:
            job.save(job(seed, device, told, checkpoint), path)
        checkpoint.unlink(missing_ok=True)
    ranks.wait()
    if not ranks.alone:  # a rank is not told of the experts of the others
        progress(total, total)
    return ExpertStream([partial(load_expert, path) for path in paths])


@torch.no_grad()
def _accuracy(expert: Expert, samples: Samples) -> float:
    """The share of images whose class is predicted, among the expert's own classes."""
    samples = samples.to(expert.device)
    right = torch.zeros((), dtype=torch.int64, device=expert.device)
    for index in torch.arange(len(samples), device=expert.device).split(BATCH):
        right += (expert.labels(samples.pixels(index)) == samples.labels[index]).sum()
    return right.item() / len(samples)
