"""The experts of a scenario: trained, saved, and not trained twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exml.core.errors import ConfigError, ExpertError
from exml.core.expert import Expert
from exml.core.ranks import Ranks
from exml.core.samples import Samples
from exml.core.serialization import from_plain, to_plain
from exml.experts import ExpertStream, ExpertTraining, load_expert, read_card, save_expert, train_expert

if TYPE_CHECKING:
    from exml.scenarios.scenario import Experience, Scenario

BATCH = 500
"""Images that an expert is asked about at once."""


def train_experts(
    scenario: Scenario,
    seed: int,
    folder: Path | None,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
    ranks: Ranks,
    validation: Scenario | None = None,
) -> ExpertStream:
    """See :meth:`Scenario.train_experts`."""
    epochs = scenario.training.epochs
    paths: list[Path] = []
    experts: list[Expert] = []
    for number, experience in enumerate(scenario.experiences):
        record = _record(scenario, experience, seed)
        path = None if folder is None else folder / f"expert-{experience.index}.json"
        checkpoint = None if path is None else path.with_suffix(".training")
        if path is not None and number % ranks.size != ranks.rank:
            paths.append(path)
            continue
        if path is None or not _is_there(path, record):

            def report(done: int, _: int, before: int = number * epochs) -> None:
                if progress is not None:
                    progress(before + done, len(scenario.experiences) * epochs)

            expert = train_expert(
                scenario.make_module(seed, "experts").to(device),
                experience.train,
                training=scenario.training,
                seed=seed,
                mean=scenario.mean,
                std=scenario.std,
                task=experience.task,
                name=f"{scenario.name}-{experience.index}",
                progress=report,
                checkpoint=checkpoint,
            )
            accuracy = None
            if validation is not None:
                held_out = validation.experiences[number].test
                accuracy = _accuracy(expert, held_out)
                record |= {"accuracy": {"split": "validation", "images": len(held_out)}}
            expert = expert.to("cpu")
            if path is None:
                experts.append(expert)
            else:
                save_expert(expert, path.parent, path.stem, order=experience.index, accuracy=accuracy, training=record)
        elif progress is not None:
            progress((number + 1) * epochs, len(scenario.experiences) * epochs)
        if path is not None and checkpoint is not None:
            checkpoint.unlink(missing_ok=True)  # the expert is there
            paths.append(path)
    if folder is None:
        return ExpertStream.from_experts(experts)
    ranks.wait()
    if progress is not None and not ranks.alone:  # a rank hears nothing of the experts of the others
        progress(len(paths) * epochs, len(paths) * epochs)
    return ExpertStream([partial(load_expert, path) for path in paths])


def _is_there(path: Path, record: dict[str, Any]) -> bool:
    """Whether a whole expert with this record lies at the path; one that was cut short is made again."""
    try:
        training = dict(read_card(path).training)
        # An expert that was trained before a setting was added is one of the same settings.
        training["settings"] = to_plain(from_plain(training.get("settings"), ExpertTraining))
        if any(training.get(name) != value for name, value in record.items()):
            return False
        load_expert(path)
    except (ExpertError, ConfigError):
        return False
    return True


@torch.no_grad()
def _accuracy(expert: Expert, samples: Samples) -> float:
    """Of its own classes only, as an expert is asked about images of its own experience."""
    samples = samples.to(expert.device)
    right = torch.zeros((), dtype=torch.int64, device=expert.device)
    for index in torch.arange(len(samples), device=expert.device).split(BATCH):
        right += (expert.labels(samples.pixels(index)) == samples.labels[index]).sum()
    return right.item() / len(samples)


def _record(scenario: Scenario, experience: Experience, seed: int) -> dict[str, Any]:
    """All that the weights depend on, as JSON for the card."""
    digest = hashlib.sha256(repr((scenario.mean, scenario.std)).encode())
    for tensor in (experience.train.images, experience.train.labels):
        for part in tensor.split(BATCH):  # the whole may be many gigabytes
            digest.update(part.cpu().contiguous().numpy().tobytes())
    return {
        "scenario": scenario.name,
        "experience": experience.index,
        "seed": seed,
        "data": digest.hexdigest(),
        "architecture": dict(scenario.architecture),
        "settings": to_plain(scenario.training),
        **({"pretrained": "imagenet"} if scenario.pretrained else {}),
    }
