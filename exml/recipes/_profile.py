"""What recipes read off the profile of a stream, and ask of their caller."""

from __future__ import annotations

from exml.combiners import MultiTask
from exml.core.errors import SettingError
from exml.experts import ExpertProfile
from exml.priors import BatchNormStatistics
from exml.protocols import Combiner, Source


def combiner_for(profile: ExpertProfile, flat: Combiner) -> Combiner:
    """``flat``, within each task where the experts have task labels."""
    return flat if profile.tasks is None else MultiTask(profile.tasks, flat)


def statistics_for(profile: ExpertProfile, weight: float) -> tuple[BatchNormStatistics, ...]:
    """The prior on running statistics: absent where no expert has any, tolerant where only some have."""
    present = [bool(expert.running_statistics) for expert in profile.experts]
    return (BatchNormStatistics(weight, absent="error" if all(present) else "ignore"),) if any(present) else ()


def required(real_data: Source | None) -> Source:
    """The source, for recipes that replay it.

    Raises:
        SettingError: without one.
    """
    if real_data is None:
        raise SettingError(
            expected="real_data, the source of the images to replay",
            got="None",
            remedy="pass a source such as exml.scenarios.ScenarioSource(name, seed), or choose another recipe",
        )
    return real_data
