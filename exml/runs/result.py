"""The result of a run: the schema of ``result.json``, as classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs.validators import deep_iterable, optional

from exml.core.errors import ConfigError, SettingError
from exml.core.files import read_json, write_json
from exml.core.html import card
from exml.core.registry import component
from exml.core.serialization import from_plain, to_plain
from exml.core.validators import in_range, one_of
from exml.experts import Screening
from exml.runs.agreement import Agreement
from exml.runs.environment import Environment
from exml.runs.forecast import Forecast

VERSION = 1
"""Version of the schema; a file of another version is refused."""


_FRACTION = in_range(0, 1)


@component
@attrs.frozen
class Seconds:
    """Wall time by phase, in seconds, summed over all processes that worked on the run.

    Work that a kill lost and a resumed run repeated counts twice. Up to two seconds before each kill are not counted.

    Args:
        experts: training of the experts.
        generation: A^gen (Sec. 4).
        distillation: of the student (Algorithm 1, lines 6 to 12), including the buffer update and checkpoints.
        evaluation: of students and baselines on test images, and saving the students.

    >>> from exml.runs import Seconds
    >>> Seconds(generation=1.0, distillation=2.5) + Seconds(generation=1.0)
    Seconds(experts=0.0, generation=2.0, distillation=2.5, evaluation=0.0)
    """

    experts: float = attrs.field(default=0.0, validator=in_range(0))
    generation: float = attrs.field(default=0.0, validator=in_range(0))
    distillation: float = attrs.field(default=0.0, validator=in_range(0))
    evaluation: float = attrs.field(default=0.0, validator=in_range(0))

    @property
    def total(self) -> float:
        """The sum of all phases."""
        return self.experts + self.generation + self.distillation + self.evaluation

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(**{name: value + getattr(other, name) for name, value in attrs.asdict(self).items()})


@component
@attrs.frozen(kw_only=True)
class ExperienceResult:
    """An experience with test images.

    Args:
        index: i, from 1.
        classes: global ids.
        task: the task label t_i, None if the scenario has none.
        images: number of test images, which is the weight of the experience in Eq. 2.
    """

    index: int = attrs.field(validator=in_range(1, integer=True))
    classes: tuple[int, ...]
    task: int | None
    images: int = attrs.field(validator=in_range(1, integer=True))


@component
@attrs.frozen(kw_only=True)
class TargetAudit:
    """A diagnosis with labeled images and all experts at once, none of which the student had; fractions from 0 to 1.

    A student can hardly be better than its target. Its distance to the target shows what its images, its capacity and
    its training lack; the distance of the target to the oracle shows what calibration and combiner lack.

    Args:
        target: stream accuracy of the targets of the last experience, computed for the test images as in training; the
            target of each experience takes the place of the student that learned it. None if there are none.
        reason: why there are none.
        student: stream accuracy of the student.
        ensemble: that of the best ensemble of the experts.
        best_ensemble: its name.
        oracle: that of the responsible experts; None if they are unknown.
        recovered_gap: (student - ensemble) / (oracle - ensemble); None if the oracle is less than a point above the
            ensemble.
        seconds: that the diagnosis took; not in the seconds of the run.
        needs: what a reader must know about these figures.
    """

    target: float | None = attrs.field(validator=in_range(0, 1, optional=True))
    reason: str | None = None
    student: float = attrs.field(validator=_FRACTION)
    ensemble: float = attrs.field(validator=_FRACTION)
    best_ensemble: str
    oracle: float | None = attrs.field(validator=in_range(0, 1, optional=True))
    recovered_gap: float | None
    seconds: float = attrs.field(validator=in_range(0))
    needs: Literal["labeled images and all experts"] = "labeled images and all experts"

    @property
    def distance(self) -> float | None:
        """How far the student is below its target; None without one."""
        return None if self.target is None else self.target - self.student


@component
@attrs.frozen(kw_only=True)
class StrategyResult:
    """The outcome of one strategy.

    Args:
        name: name of the strategy in this run.
        strategy: the strategy as plain data; :meth:`exml.Strategy.from_dict` reads it.
        ex_model: whether it respects the constraints of the ex-model scenario (Sec. 2); Replay ED does not.
        accuracy: the accuracy matrix: row i, column j is the accuracy, a fraction, of the student after experience i
            on the test set of experience j, also for j > i. Empty without test data.
        stream_accuracy: after each experience i, over the test images of the experiences 1 to i (Eq. 2); the last one
            is the stream accuracy of the strategy.
        forgetting: see :func:`exml.runs.evaluation.forgetting`; None after a single experience.
        seconds: its share of the wall time.
        folder: the folder of its student, relative to that of the run.
        experiences: number of experts that the student has learned from; None in older files.
        classes: global ids of the classes that they know; None in older files.
        suspects: the experts that were suspect, refused or not; see :class:`exml.experts.Screening`.
        forecast: the expected time of generation and distillation, if a forecast was made.
        agreement: of the student with its experts, measured without data; None if the run was stopped.
        audit: of its targets, with data; None without test data, and if the run was stopped.
    """

    name: str
    strategy: Any
    ex_model: bool
    accuracy: tuple[tuple[float, ...], ...] = attrs.field(validator=deep_iterable(deep_iterable(_FRACTION)))
    stream_accuracy: tuple[float, ...] = attrs.field(validator=deep_iterable(_FRACTION))
    forgetting: float | None
    seconds: Seconds
    folder: str = "."
    experiences: int | None = None
    classes: tuple[int, ...] | None = None
    suspects: tuple[Screening, ...] = ()
    forecast: Forecast | None = None
    agreement: Agreement | None = None
    audit: TargetAudit | None = None


@component
@attrs.frozen(kw_only=True)
class BaselineResult:
    """The outcome of one baseline (Sec. 5) on the same experts.

    Args:
        name: name of the baseline.
        ex_model: whether it respects the constraints of the ex-model scenario (Sec. 2): only Param. Avg. does, since
            the others keep all experts.
        accuracy: on the test set of each experience; None if the baseline does not apply.
        stream_accuracy: over all of them (Eq. 2); None if the baseline does not apply.
        reason: why it does not apply; None if it does.
    """

    name: str
    ex_model: bool
    accuracy: tuple[float, ...] | None = attrs.field(default=None, validator=optional(deep_iterable(_FRACTION)))
    stream_accuracy: float | None = attrs.field(default=None, validator=in_range(0, 1, optional=True))
    reason: str | None = None


@component
@attrs.frozen(kw_only=True, repr=False)
class Result:
    """Everything that a run measured; ``result.json`` is this class as JSON, each part tagged with its ``kind``.

    Args:
        version: of this schema.
        scenario: its name; None for a run over a folder of experts, which measures no accuracy.
        seed: of the scenario, the experts and the students.
        split: the images that accuracies are measured on; with ``"validation"`` no test image was read. None without
            a scenario.
        shared_test: whether all experiences have one test set, so that the columns of an accuracy matrix are equal.
        experiences: those with test images, in order.
        strategies: in the order of the request, all on the same experts.
        baselines: on the same experts, including those that do not apply.
        seconds: wall time of the whole run, including that of the strategies.
        environments: one, or more if the run was resumed elsewhere.
        stopped: whether the run was stopped before its end.

    >>> from exml.runs import Result
    >>> Result.from_dict({"version": 2})
    Traceback (most recent call last):
    exml.core.errors.ConfigError: expected version 1 at version, got 2; remedy: read it with the exml that wrote it
    """

    version: Literal[1] = 1
    scenario: str | None
    seed: int
    split: Literal["test", "validation"] | None = attrs.field(validator=one_of("test", "validation", None))
    shared_test: bool = False
    experiences: tuple[ExperienceResult, ...] = ()
    strategies: tuple[StrategyResult, ...] = ()
    baselines: tuple[BaselineResult, ...] = ()
    seconds: Seconds = Seconds()
    environments: tuple[Environment, ...] = ()
    stopped: bool = False

    @property
    def preferred(self) -> StrategyResult | None:
        """The strategy whose student agrees best with the experts, without data (:attr:`Agreement.among_all`).

        The first one if no student was compared with them; None without strategies.
        """

        def share(row: StrategyResult) -> float:
            return -1.0 if row.agreement is None else row.agreement.among_all

        return max(self.strategies, key=share, default=None)

    @property
    def _outcomes(self) -> dict[str, str]:
        """What each strategy reached, in words."""
        found: dict[str, str] = {}
        for row in self.strategies:
            if row.stream_accuracy:
                found[row.name] = f"stream accuracy {100 * row.stream_accuracy[-1]:.1f} %"
            elif row.agreement is not None:
                found[row.name] = f"agreement {100 * row.agreement.score:.1f} %"
            else:
                found[row.name] = "not evaluated"
        return found

    def __repr__(self) -> str:
        outcomes = ", ".join(f"{name}: {outcome}" for name, outcome in self._outcomes.items())
        state = "stopped" if self.stopped else "finished"
        return f"Result({self.scenario or 'experts of a folder'}, seed {self.seed}, {state}; {outcomes})"

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        baselines = {
            row.name: "does not apply" if row.stream_accuracy is None else f"{100 * row.stream_accuracy:.1f} %"
            for row in self.baselines
        }
        about: dict[str, object] = {"seed": self.seed, "time": f"{self.seconds.total:.0f} s", "stopped": self.stopped}
        return card(f"Result: {self.scenario or 'experts of a folder'}", {**about, **self._outcomes, **baselines})

    def to_dataframe(self) -> Any:
        """The strategies and baselines as a ``pandas.DataFrame``, one row each.

        Columns are scenario, seed, split, name, role (``"strategy"`` or ``"baseline"``), ex_model, stream_accuracy,
        forgetting, agreement, seconds, and accuracy_1, accuracy_2, ... by experience, after the whole stream. Fractions
        are from 0 to 1; NaN where there is no number.

        Raises:
            SettingError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SettingError(expected="the package pandas", got=str(error), remedy="pip install pandas") from error
        rows: list[dict[str, Any]] = []
        for row in (*self.strategies, *self.baselines):
            cells: dict[str, Any] = {"scenario": self.scenario, "seed": self.seed, "split": self.split}
            cells |= {"name": row.name, "role": "baseline", "ex_model": row.ex_model}
            cells |= {"stream_accuracy": row.stream_accuracy, "forgetting": None, "agreement": None, "seconds": None}
            accuracy = row.accuracy
            if isinstance(row, StrategyResult):
                accuracy = row.accuracy[-1] if row.accuracy else ()
                cells |= {"role": "strategy", "forgetting": row.forgetting, "seconds": row.seconds.total}
                cells["stream_accuracy"] = row.stream_accuracy[-1] if row.stream_accuracy else None
                cells["agreement"] = None if row.agreement is None else row.agreement.score
            rows.append(cells | {f"accuracy_{number}": value for number, value in enumerate(accuracy or (), 1)})
        numbers = ["stream_accuracy", "forgetting", "agreement", "seconds"]
        return pandas.DataFrame(rows).astype(dict.fromkeys(numbers, float) if rows else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the file; :meth:`from_dict` is the inverse."""
        return to_plain(self)

    @classmethod
    def from_dict(cls, plain: Any, /) -> Result:
        """A result from plain data; a ConfigError names the path of a fault, such as another version of the schema."""
        version = plain.get("version") if isinstance(plain, Mapping) else None
        if version != VERSION:
            remedy = "read it with the exml that wrote it"
            raise ConfigError("version", expected=f"version {VERSION}", got=repr(version), remedy=remedy)
        return from_plain(plain, cls)

    def save(self, path: Path | str) -> None:
        """Write ``result.json`` atomically; a CheckpointError says that it cannot be written."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read what :meth:`save` wrote; a ConfigError says that the file is missing or not a result."""
        try:
            plain = read_json(Path(path), file_names=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "", expected=f"a result in {path}", got=str(error), remedy="name the result.json of a finished run"
            ) from None
        return cls.from_dict(plain)
