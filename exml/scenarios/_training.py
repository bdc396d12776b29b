"""Trains the experts of a scenario, saves them, and trains none twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from exml.core.errors import ConfigError, ExpertError
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.core.samples import Samples
from exml.core.serialization import from_plain, to_plain
from exml.experts import ExpertStream, ExpertTraining, load_expert, read_card, save_expert, untrained_expert

BATCH = 500
"""Images per forward pass when the accuracy is measured."""


@attrs.frozen(eq=False, kw_only=True)
class ExpertJob:
    """One expert that is to be trained.

    Args:
        name: of the expert.
        index: i of its experience, from 1.
        task: the task label t_i.
        make_module: returns the module with its initial weights.
        mean: of each channel, in pixel units.
        std: of each channel, in pixel units.
        train: the samples that it is trained on.
        held_out: samples that its accuracy is measured on, if any.
        training: the settings.
        record: everything that its weights depend on, as JSON.
    """

    name: str
    index: int
    task: int | None
    make_module: Callable[[], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Samples
    held_out: Samples | None
    training: ExpertTraining
    record: dict[str, Any]

    def __call__(
        self,
        seed: int,
        device: torch.device | str,
        progress: Callable[[int, int], None],
        checkpoint: Path | None,
    ) -> Expert:
        """Train the expert."""
        module = self.make_module().to(device)
        expert = untrained_expert(module, self.train, mean=self.mean, std=self.std, task=self.task, name=self.name)
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
        """Whether the expert of this record is at the path, whole; one that was cut short is trained again."""
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
    progress: Callable[[int, int], None],
    ranks: Ranks,
) -> ExpertStream:
    """Train all experts, those of a folder in parts by the ranks; see :meth:`Scenario.train_experts`."""
    epochs = [job.training.epochs for job in jobs]
    done = [sum(epochs[:number]) for number in range(len(jobs) + 1)]

    def report(number: int, epoch: int, _: int) -> None:
        progress(done[number] + epoch, done[-1])

    if folder is None:
        trained = [job(seed, device, partial(report, number), None).to("cpu") for number, job in enumerate(jobs)]
        return ExpertStream.from_experts(trained)
    paths = [folder / f"expert-{job.index}.json" for job in jobs]
    for number, (job, path) in enumerate(zip(jobs, paths, strict=True)):
        if number % ranks.size != ranks.rank:
            continue
        checkpoint = path.with_suffix(".training")
        if job.is_done(path):
            progress(done[number + 1], done[-1])
        else:
            job.save(job(seed, device, partial(report, number), checkpoint), path)
        checkpoint.unlink(missing_ok=True)
    ranks.wait()
    if not ranks.alone:  # a rank is not told of the experts of the others
        progress(done[-1], done[-1])
    return ExpertStream([partial(load_expert, path) for path in paths])


@torch.no_grad()
def _accuracy(expert: Expert, samples: Samples) -> float:
    """The share of images whose class is predicted, among the expert's own classes."""
    samples = samples.to(expert.device)
    right = torch.zeros((), dtype=torch.int64, device=expert.device)
    for index in torch.arange(len(samples), device=expert.device).split(BATCH):
        right += (expert.labels(samples.pixels(index)) == samples.labels[index]).sum()
    return right.item() / len(samples)
