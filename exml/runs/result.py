"""What came out of a run: the schema of ``result.json``, as classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from exml.core.errors import ConfigError, SettingError
from exml.core.files import write_json
from exml.core.registry import component
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import in_range, one_of

VERSION = 1
"""Of the schema; a file of another version is refused."""


def _fractions(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    rows: tuple[Any, ...] = value if isinstance(value, tuple) else ()
    flat = [number for row in rows for number in (row if isinstance(row, tuple) else (row,))]
    if not all(isinstance(number, int | float) and 0 <= number <= 1 for number in flat):
        raise SettingError(
            expected=f"numbers from 0 to 1 for {type(instance).__name__}.{attribute.name}",
            got=repr(value),
            remedy="give accuracies as fractions",
        )


@component
@attrs.frozen
class Seconds:
    """Wall time by phase, in seconds, over all processes that worked on the run.

    Work that a kill undid and that was done again counts twice, since it took its time twice. The clock is written down
    every two seconds: at most so much is missing for each time that the run was killed.

    Args:
        experts: their training.
        generation: A^gen (Sec. 4).
        distillation: of the student (Algorithm 1, lines 6 to 12), with the buffer update and the checkpoints.
        evaluation: on test images, and the baselines.

    >>> Seconds(generation=1.0, distillation=2.5) + Seconds(generation=1.0)
    Seconds(experts=0.0, generation=2.0, distillation=2.5, evaluation=0.0)
    """

    experts: float = attrs.field(default=0.0, validator=in_range(0))
    generation: float = attrs.field(default=0.0, validator=in_range(0))
    distillation: float = attrs.field(default=0.0, validator=in_range(0))
    evaluation: float = attrs.field(default=0.0, validator=in_range(0))

    @property
    def total(self) -> float:
        """All phases together."""
        return self.experts + self.generation + self.distillation + self.evaluation

    def __add__(self, other: Seconds) -> Seconds:
        sums = {name: value + getattr(other, name) for name, value in attrs.asdict(self).items()}
        return Seconds(**sums)


@component
@attrs.frozen(kw_only=True)
class Environment:
    """What a run ran on.

    Args:
        versions: of Python, of exml and of the packages that the numbers depend on.
        device: as torch names it.
        hardware: processor, cores, memory, and the accelerator where one was used.
        threads: of torch on the CPU.
        compile: as :class:`exml.engine.Execution` has it, like the next.
        precision: of the networks.
        ranks: how many processes worked together; ``hardware`` and ``threads`` are those of the first.
    """

    versions: Mapping[str, str]
    device: str
    hardware: str
    threads: int = attrs.field(validator=in_range(1, integer=True))
    compile: str = "never"
    precision: str = "float32"
    ranks: int = attrs.field(default=1, validator=in_range(1, integer=True))


@component
@attrs.frozen(kw_only=True)
class ExperienceResult:
    """What was asked about an experience; the accuracies are with the strategies and the baselines.

    Args:
        index: i, from 1.
        classes: global ids.
        task: the task label t_i, None where the scenario has none.
        images: how many test images; the weight of the experience in Eq. 2.
    """

    index: int = attrs.field(validator=in_range(1, integer=True))
    classes: tuple[int, ...]
    task: int | None
    images: int = attrs.field(validator=in_range(1, integer=True))


@component
@attrs.frozen(kw_only=True)
class StrategyResult:
    """What one strategy made of the stream.

    Args:
        name: of the strategy in this run.
        strategy: the strategy as plain data; :meth:`exml.Strategy.from_dict` reads it.
        ex_model: whether it respects the constraints of the ex-model scenario (Sec. 2); Replay ED does not.
        accuracy: the accuracy matrix: row i, column j is the accuracy of the student after experience i on the test set
            of experience j, also where j > i. Fractions, as are the next two.
        stream_accuracy: after each experience i, over the test images of the experiences 1 to i (Eq. 2); the last one
            is the stream accuracy of the strategy.
        forgetting: see :func:`exml.runs.evaluation.forgetting`; None after a single experience.
        seconds: its own share of the wall time.
        folder: of its student, relative to that of the run.
    """

    name: str
    strategy: Any
    ex_model: bool
    accuracy: tuple[tuple[float, ...], ...] = attrs.field(validator=_fractions)
    stream_accuracy: tuple[float, ...] = attrs.field(validator=_fractions)
    forgetting: float | None
    seconds: Seconds
    folder: str = "."


@component
@attrs.frozen(kw_only=True)
class BaselineResult:
    """What one baseline (Sec. 5) makes of the same experts.

    Args:
        name: of the baseline.
        ex_model: whether it respects the constraints of the ex-model scenario (Sec. 2): of the baselines only
            Param. Avg. does, since the others keep all experts.
        accuracy: on the test set of each experience; None where the baseline does not apply.
        stream_accuracy: over all of them (Eq. 2); None where the baseline does not apply.
        reason: why it does not apply; None where it does.
    """

    name: str
    ex_model: bool
    accuracy: tuple[float, ...] | None = attrs.field(default=None, validator=_fractions)
    stream_accuracy: float | None = attrs.field(default=None, validator=in_range(0, 1, optional=True))
    reason: str | None = None


@component
@attrs.frozen(kw_only=True)
class Result:
    """Everything that a run measured; ``result.json`` is this class as JSON, each part tagged with its ``kind``.

    Args:
        version: of this schema.
        scenario: its name.
        seed: of the scenario, the experts and the students.
        split: which images the accuracies are of: ``"test"``, or ``"validation"`` and no test image was looked at.
        shared_test: whether all experiences have one test set, so that the columns of an accuracy matrix are equal.
        experiences: in their order.
        strategies: in the order in which they were asked for, all on the same experts.
        baselines: on these experts, also those that do not apply.
        seconds: wall time of the whole run, the strategies' shares among it.
        environments: one, or more if the run was resumed elsewhere.

    >>> Result.from_dict({"version": 2})
    Traceback (most recent call last):
    exml.core.errors.ConfigError: expected version 1 at version, got 2; remedy: read it with the exml that wrote it
    """

    version: Literal[1] = 1
    scenario: str
    seed: int
    split: Literal["test", "validation"] = attrs.field(validator=one_of("test", "validation"))
    shared_test: bool
    experiences: tuple[ExperienceResult, ...]
    strategies: tuple[StrategyResult, ...]
    baselines: tuple[BaselineResult, ...]
    seconds: Seconds
    environments: tuple[Environment, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the file; :meth:`from_dict` is the inverse."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, plain: Any, /) -> Result:
        """A result from plain data.

        Raises:
            ConfigError: another version of the schema, or a fault, named by its path.
        """
        version = plain.get("version") if isinstance(plain, Mapping) else None
        if version != VERSION:
            raise ConfigError(
                "version",
                expected=f"version {VERSION}",
                got=repr(version),
                remedy="read it with the exml that wrote it",
            )
        return from_plain(plain, cls)

    def save(self, path: Path | str) -> None:
        """Write ``result.json`` atomically.

        Raises:
            CheckpointError: when it cannot be written.
        """
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: no such file, no JSON, another version, or a fault, named by its path.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "", expected=f"a result in {path}", got=str(error), remedy="name the result.json of a finished run"
            ) from None
        return cls.from_dict(plain)
