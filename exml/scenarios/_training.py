"""Trains and saves the experts of a scenario; those that are there already are not trained again."""

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


@attrs.frozen(eq=False)
class ExpertJob:
    """One expert to train. The record is everything that its weights depend on, as JSON."""

    index: int
    make: Callable[[], Expert]
    train: Samples
    held_out: Samples | None
    training: ExpertTraining
    record: dict[str, Any]

    def __call__(self, seed: int, device: torch.device | str, progress: Progress, checkpoint: Path | None) -> Expert:
        expert = self.make().to(device)
        self.training(expert, self.train, seed, progress, checkpoint)
        return expert

    def save(self, expert: Expert, path: Path) -> None:
        record, accuracy = self.record, None
        if self.held_out is not None:
            accuracy = _accuracy(expert, self.held_out)
            record = record | {"accuracy": {"split": "validation", "images": len(self.held_out)}}
        save_expert(expert.to("cpu"), path.parent, path.stem, order=self.index, accuracy=accuracy, training=record)

    def is_done(self, path: Path) -> bool:
        """Whether the files of the expert with this record are complete."""
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
    """Train all experts; each rank trains a part of those of a folder. See :meth:`Scenario.train_experts`."""
    epochs = jobs[0].training.epochs  # all jobs have the same settings
    total = len(jobs) * epochs

    def report(job: ExpertJob, epoch: int, _: int) -> None:
        progress(jobs.index(job) * epochs + epoch, total)

    if folder is None:
        experts = (job(seed, device, partial(report, job), None) for job in jobs)
        return ExpertStream.from_experts([expert.to("cpu") for expert in experts])
    paths = [folder / f"expert-{job.index}.json" for job in jobs]
    for job, path in [*zip(jobs, paths, strict=True)][ranks.rank :: ranks.size]:
        checkpoint = path.with_suffix(".training")
        if job.is_done(path):
            report(job, epochs, epochs)
        else:
            job.save(job(seed, device, partial(report, job), checkpoint), path)
        checkpoint.unlink(missing_ok=True)
    ranks.wait()
    if not ranks.alone:  # no rank reports the experts of the others
        progress(total, total)
    return ExpertStream(paths)


@torch.no_grad()
def _accuracy(expert: Expert, samples: Samples) -> float:
    samples = samples.to(expert.device)
    right = torch.zeros((), dtype=torch.int64, device=expert.device)
    for index in torch.arange(len(samples), device=expert.device).split(BATCH):
        right += (expert.labels(samples.pixels(index)) == samples.labels[index]).sum()
    return right.item() / len(samples)
