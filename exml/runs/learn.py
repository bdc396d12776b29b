"""Learning from experts in one call: :func:`learn`, and what it shares with ``exml learn``."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import torch
from rich.console import Console

from exml.core.errors import ConfigError, ExmlError, SettingError
from exml.core.expert import Expert
from exml.core.files import MEGABYTE, read_bytes
from exml.core.ranks import Ranks
from exml.experts import LabelPlan, Screening
from exml.learning.screening import Panel
from exml.learning.stop import Stop
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES, recipe
from exml.recipes.named import unknown_recipe
from exml.runs.display import ProgressDisplay
from exml.runs.forecast import Forecast
from exml.runs.record import RECORD, begun
from exml.runs.run import Choice, RunSettings, run, schedule
from exml.runs.sources import FolderExperts, LabelChoices, LiveExperts, OpenExperts
from exml.runs.student import Student
from exml.runs.student_plan import architecture_of
from exml.scenarios import ScenarioSource

SHARE = 0.9
"""The share of a budget that generation and distillation may take; the rest is for the checks and the report."""


def learn(
    experts: Path | str | Sequence[Expert | Path | str],
    /,
    *,
    student: str | Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    plan: LabelPlan | Path | str | None = None,
    strategy: Strategy | str | Mapping[str, Strategy | str] = "exml",
    seed: int = 0,
    budget: float | None = None,
    device: str = "cpu",
) -> Student:
    """Learn one student from trained classifiers, without their data; ``exml learn`` does the same.

    The labels of the student are the union of the experts' labels. Experts may differ in architecture, image shape and
    normalization. Progress is shown on stderr if it is a terminal.

    Args:
        experts: a folder of experts in any format, or a list of experts and paths. Experts in memory need no
            registered architecture, and move to ``device``.
        student: an architecture of :mod:`exml.models`, such as ``"resnet18"`` or ``"torchvision/resnet18"``, or its
            name and settings. By default that of the first expert if it is registered, or a conv-net for images of up
            to 64 pixels.
        out: folder of the run, as of ``exml learn``. If it holds a run with the same arguments, that run is resumed.
            None keeps nothing on the disk.
        plan: what becomes of the experts' labels, or the path of the file; by default :func:`exml.experts.plan_labels`.
        strategy: or the name of a recipe, which looks at the experts. Of several by name, each trains a student in a
            folder of its own, and the student that agrees best with the experts is returned
            (:attr:`exml.runs.Result.preferred`).
        seed: of everything random.
        budget: minutes for the whole work; strategies that would take longer are scaled down.
        device: as torch names it; ``"auto"`` is an accelerator if there is one.

    Raises:
        ExmlError: an expert, the plan, the student or the strategy does not fit; before any work starts if possible.

    >>> import exml, torch
    >>> def network(classes):
    ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    >>> pets = exml.Expert(network(2), labels=["cat", "dog"], image_shape=(1, 8, 8), name="pets")
    >>> farm = exml.Expert(network(3), labels=["dog", "cow", "hen"], image_shape=(1, 8, 8), name="farm")
    >>> training = exml.Training(iterations=2, batch_size=4, learning_rate=0.01)
    >>> quick = exml.recipes.noise(exml.ExpertProfile.from_experts([pets]))
    >>> quick = quick.buffer(exml.buffers.Cumulative(8)).training(training).build()
    >>> exml.learn([pets, farm], student="conv-net:widths=[4]", strategy=quick).labels
    ('cat', 'dog', 'cow', 'hen')
    """
    began = time.monotonic()
    labels = LabelChoices(plan=plan if plan is None or isinstance(plan, LabelPlan) else load_plan(Path(plan)))
    architecture = architecture_of(student) if isinstance(student, str) else student
    source = (
        FolderExperts(experts, student=architecture, labels=labels)
        if isinstance(experts, Path | str)
        else LiveExperts(experts, architecture, labels)
    )
    settings = RunSettings(seed, device)
    given = strategy if isinstance(strategy, Mapping) else {"exml": strategy}
    choices = {name: named(each) if isinstance(each, str) else each for name, each in given.items()}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "out") if out is None else Path(out)
        resume = (folder / RECORD).exists()
        record = begun(folder, resume=True) if resume else None
        opened = source.open(seed, folder, Stop(), record)
        assert opened is not None  # only the wait of a followed folder can be stopped
        if budget is not None:
            choices = unscaled(choices) if resume else scheduled(opened, choices, settings, budget, began)[0]
        with ProgressDisplay(Console(stderr=True)) as display:
            run(opened, choices, folder, settings=settings, resume=resume, observers=[display])
        found = Student.load(folder)
    return found if out is not None else attrs.evolve(found, folder=None)


def load_plan(path: Path, /) -> LabelPlan:
    """Read a label plan from a file; a ConfigError or a PlanError names what is wrong."""
    try:
        text = read_bytes(path, 128 * MEGABYTE)
    except OSError as error:
        remedy = "check the path; 'exml plan' writes one"
        raise ConfigError("", expected=f"a label plan in {path}", got=str(error), remedy=remedy) from None
    return LabelPlan.from_yaml(text, str(path))


def named(name: str, /, real_data: ScenarioSource | None = None) -> Choice:
    """The recipe of this name as a function of the experts; ``real_data`` are those of a scenario."""
    if name not in RECIPES:
        raise unknown_recipe(name)
    return lambda profile, student: recipe(name, profile, real_data=real_data, student=student).build()


def require_alone(source: FolderExperts, ranks: Ranks, budget: float | None, strategies: Collection[str]) -> None:
    """Refuse several processes that follow a folder or keep a budget; a followed folder has one strategy, no budget."""
    if source.follow and len(strategies) > 1:
        got, remedy = ", ".join(strategies), "name one of them, or leave --follow out"
        raise SettingError(expected="one strategy to follow a folder", got=got, remedy=remedy)
    if not ranks.alone and (source.follow or budget is not None):
        expected = f"one process to {'follow a folder' if source.follow else 'keep a budget'}"
        raise SettingError(expected=expected, got=f"{ranks.size} ranks", remedy="start one process")
    if budget is not None and (source.follow or budget <= 0):
        got = "a followed folder" if source.follow else f"{budget} minutes"
        remedy = "leave --budget or --follow out, or increase the budget"
        raise SettingError(expected="a budget > 0 for a stream of known length", got=got, remedy=remedy)


def screened(source: OpenExperts) -> list[Screening]:
    """Compare the experts of a source with each other, as a learner does; those that cannot be loaded are left out."""
    panel, loads = Panel(), source.loads(list(source.cards))
    panel.preview(loads, torch.device("cpu"))
    found: list[Screening] = []
    for load in loads:
        with suppress(ExmlError):
            found.append(panel.screen(panel.observe(load())))
    return found


def unscaled(choices: Mapping[str, Choice], /) -> dict[str, Choice]:
    """Choices that a resumed run does not compare with its strategies, which a budget may have scaled."""
    return {name: _recalled(choice) if isinstance(choice, Strategy) else choice for name, choice in choices.items()}


def _recalled(strategy: Strategy) -> Choice:
    return lambda _profile, _student: strategy


def scheduled(
    source: OpenExperts, choices: Mapping[str, Choice], settings: RunSettings, budget: float | None, began: float
) -> tuple[dict[str, Choice], dict[str, Forecast]]:
    """:func:`schedule` for each strategy, with an equal share of a budget in minutes that counts from ``began``."""
    strategies, expected = dict[str, Choice](), dict[str, Forecast]()
    for number, (name, choice) in enumerate(choices.items()):
        left = None if budget is None else 60 * budget - (time.monotonic() - began) - _seconds(expected)
        seconds = None if left is None else max(SHARE * left / (len(choices) - number), 1.0)
        strategies[name], expected[name] = schedule(source, choice, settings, seconds)
    return strategies, expected


def _seconds(forecasts: Mapping[str, Forecast]) -> float:
    return sum(forecast.seconds for forecast in forecasts.values())
