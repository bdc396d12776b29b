"""One HTML page about one or more runs: what ``exml report`` writes."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import yaml
from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined, select_autoescape

from exml.core.errors import CheckpointError, SettingError, printable
from exml.core.files import MEGABYTE, file_digest, read_bytes, write_text
from exml.core.records import read_record
from exml.core.serialization import leaves
from exml.runs.forecast import duration
from exml.runs.record import PLAN, RECORD, RESULT, Record
from exml.runs.result import Result, StrategyResult
from exml.runs.stream_log import learned_experiences

MOST_ROWS = 200
"""Maximum number of rows of a table; the page states how many it leaves out."""
LIMIT = 64 * MEGABYTE
"""Maximum size of a picture."""
_DEFAULTS = {"split": "test", "start": "known", "device": "cpu", "compile": "never", "precision": "float32"}


@attrs.frozen(slots=False)
class RunPage:
    """A finished or stopped run, as the template reads it.

    Args:
        name: of its folder; runs in folders of one name are numbered.
        folder: of the run.
        record: its ``run.json``.
        result: its ``result.json``.
    """

    name: str
    folder: Path
    record: Record
    result: Result

    @cached_property
    def missing(self) -> list[str]:
        """What the page lacks: files of the run that are gone, or differ from those that the run wrote."""
        rows = [row for row in self.result.strategies if row.experiences]
        wanted = [RESULT, *(["accuracy.png"] if rows and self.result.experiences and not self.result.stopped else [])]
        wanted += [(Path(row.folder) / name).as_posix() for row in rows for name in ("samples.png", "stream.jsonl")]
        return [text for name in wanted for text in self._fault(name)]

    def _fault(self, name: str) -> Iterator[str]:
        try:
            changed = file_digest(self.folder / name) != self.record.files.get(name)
        except OSError:
            yield f"{name} is missing"
            return
        if changed:
            yield f"{name} was changed after the run"

    def picture(self, *parts: str) -> str | None:
        """A PNG file of the run as a ``data:`` address; None if it is missing."""
        try:
            return "data:image/png;base64," + base64.b64encode(read_bytes(self.folder.joinpath(*parts), LIMIT)).decode()
        except OSError:
            return None

    @property
    def title(self) -> str:
        """Its name and what it is about."""
        return f"{self.name}: {self.result.scenario or 'experts of a folder'}, seed {self.result.seed}"

    @property
    def verdict(self) -> list[str]:
        """The outcome in sentences."""
        found: list[str] = []
        for row in self.result.strategies:
            if row.stream_accuracy:
                found.append(f"{row.name} reaches {percent(row.stream_accuracy[-1])} % stream accuracy.")
            elif row.agreement is not None:
                found.append(f"{row.name}: {row.agreement.verdict}")
        for audit in [row.audit for row in self.result.strategies if row.audit is not None][:1]:  # of the same experts
            oracle = "" if audit.oracle is None else f", the oracle {percent(audit.oracle)} %"
            best = f"The best ensemble of the experts ({audit.best_ensemble})"
            found.append(f"{best} reaches {percent(audit.ensemble)} %{oracle}.")
        return found

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the student."""
        found = ["The run was stopped before its end."] if self.result.stopped else []
        for row in self.result.strategies:
            if row.agreement is not None and row.agreement.warning is not None:
                found.append(f"{row.name}: {row.agreement.warning}")
            found += [f"Suspect expert {suspect.expert}: {suspect.problems}" for suspect in row.suspects]
        return found

    @property
    def best(self) -> float | None:
        """The highest stream accuracy of a strategy that keeps the ex-model constraints."""
        reached = [row.stream_accuracy[-1] for row in self.result.strategies if row.ex_model and row.stream_accuracy]
        return max(reached, default=None)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the students depend on, by name, apart from the strategies."""
        request, where = self.record.request, self.result.environments[-1:]
        plain: dict[str, Any] = {
            "scenario": request.scenario,
            "split": request.split,
            "seed": request.seed,
            "initial weights of the experts": request.start if request.scenario is not None else None,
            "device": request.device,
            "compile": request.execution.compile,
            "precision": request.execution.precision,
            "student": None if request.student is None else attrs.asdict(request.student),
            "hardware": where[0].hardware if where else None,
            "threads": where[0].threads if where else None,
            "version": dict(where[0].versions) if where else None,
        }
        return dict(leaves(plain))

    def as_yaml(self, row: StrategyResult) -> str:
        """A strategy as the file that the command to repeat the run reads."""
        return yaml.safe_dump(row.strategy, sort_keys=False)

    @property
    def command(self) -> str | None:
        """The command line that repeats the run; None for experts that were in memory."""
        request = self.record.request
        asked = {"split": request.split, "start": request.start, "device": request.device}
        asked |= {"compile": request.execution.compile, "precision": request.execution.precision}
        words = ["exml", "run", str(request.scenario)]
        if request.scenario is None:
            if request.experts is not None:
                return None
            words = ["exml", "learn", "EXPERTS", "--plan", str(self.folder / PLAN), "--student", "student.yaml"]
            del asked["split"], asked["start"]
        if request.strategies:
            words += ["--strategy", ",".join(f"{name}.yaml" for name in request.strategies)]
        words += ["--seed", str(request.seed)]
        for name, value in asked.items():
            words += [] if value == _DEFAULTS[name] else [f"--{name}", str(value)]
        return shlex.join([*words, "--out", "NEW_FOLDER"])

    @property
    def student_yaml(self) -> str | None:
        """The student's architecture as a file for ``--student``; None in a run over a scenario."""
        student = self.record.request.student
        return None if student is None else yaml.safe_dump(to_builtin(student.architecture), sort_keys=False)

    def experiences(self, row: StrategyResult) -> list[dict[str, Any]]:
        """The stream log of a strategy; empty if it is missing or cannot be read."""
        try:
            return learned_experiences(self.folder / row.folder / "stream.jsonl")
        except OSError:
            return []


def write_report(folders: Sequence[Path | str], path: Path | str) -> Path:
    """Write one self-contained HTML page about finished or stopped runs, next to each other if there are several.

    The page holds the verdict, settings, label plan, tables, pictures, times, environment, and the command that repeats
    each run. It needs no network and no script.

    Args:
        folders: of runs that ``exml run``, ``exml learn``, :func:`run` or :func:`learn` wrote.
        path: of the page, which is replaced if it exists; its name ends in ``.html``.

    Returns:
        Path: of the page.

    Raises:
        CheckpointError: a folder is not that of a run, the run has not finished, or its record is damaged.
        ConfigError: a result is damaged.
        SettingError: no folder, one folder twice, or a name without ``.html``.
    """
    path, places = Path(path), [Path(folder) for folder in folders]
    if path.suffix not in (".html", ".htm"):
        raise SettingError(expected="a page named *.html", got=str(path), remedy="choose another name")
    if not places or len({place.resolve() for place in places}) < len(places):
        got = "a folder twice" if places else "none"
        raise SettingError(expected="one or more runs, each once", got=got, remedy="name the folders of runs")
    runs = [_opened(place, name) for place, name in zip(places, _names(places), strict=True)]
    templates = Templates(
        loader=PackageLoader("exml.runs", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "duration": duration, "printable": printable}
    page = templates.get_template("report.html.jinja").render(runs=runs, differing=differing(runs), most=MOST_ROWS)
    write_text(path, page)
    return path


def differing(runs: Sequence[RunPage]) -> dict[str, list[Any]]:
    """The settings that are not equal for all students, with the value of each; ``"-"`` where one has none."""
    students = [{**run.settings, **dict(leaves(row.strategy))} for run in runs for row in run.result.strategies]
    names = dict.fromkeys(name for student in students for name in student)
    rows = {name: [student.get(name, "-") for student in students] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal; ``"-"`` for None.

    >>> from exml.runs.report import percent
    >>> percent(0.9312), percent(None)
    ('93.1', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def to_builtin(value: Any) -> Any:
    """Mappings and sequences as dictionaries and lists, which YAML can represent."""
    if isinstance(value, Mapping):
        return {name: to_builtin(item) for name, item in value.items()}
    return [to_builtin(item) for item in value] if isinstance(value, list | tuple) else value


def _opened(folder: Path, name: str) -> RunPage:
    if not (folder / RECORD).is_file():
        got = "no run.json" if folder.is_dir() else "no folder"
        remedy = "name a folder that exml run or exml learn wrote with --out"
        raise CheckpointError(expected=f"a run in {folder}", got=got, remedy=remedy)
    record = read_record(folder / RECORD, Record)
    if not (folder / RESULT).is_file():
        rows = ", ".join(f"{row} {len(done.accuracy)}" for row, done in record.strategies.items() if done.accuracy)
        got = "no result.json" + (f"; experiences so far: {rows}" if rows else "")
        remedy = "wait until it ends, or resume it with --resume"
        raise CheckpointError(expected=f"a run in {folder} that has ended or was stopped", got=got, remedy=remedy)
    return RunPage(name, folder, record, Result.load(folder / RESULT))


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
