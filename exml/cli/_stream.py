"""exml run --stream: what its arguments mean, and what signals do."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import yaml
from rich.console import Console

from exml import runs
from exml.cli._arguments import again
from exml.core.errors import ConfigError, SettingError
from exml.core.execution import Execution
from exml.distributed import join
from exml.engine import keep_freed_memory
from exml.experts import ExpertCard
from exml.learning.events import Event, ExpertRefused
from exml.learning.strategy import Strategy
from exml.recipes import RECIPES
from exml.runs import ProgressDisplay


@attrs.frozen
class StreamArguments:
    """Those arguments of exml run that a folder of experts understands in its own way.

    Args:
        stream: as :func:`exml.cli.run` has it, like all others.
        follow: see there.
        student: see there.
        classes: see there.
        strategy: see there.
        split: None if nobody asked for one.
    """

    stream: Path | None
    follow: bool
    student: str | None
    classes: int | None
    strategy: str
    split: str | None

    def run(
        self,
        scenario: str | None,
        out: Path,
        seed: int,
        device: str,
        execution: Execution,
        checkpoint_every: int,
        *,
        resume: bool,
        quiet: bool,
        rank_timeout: float,
    ) -> None:
        """Learn from the folder, and say how to go on if it was stopped.

        Raises:
            SettingError: arguments that do not go together.
        """
        stream = self._folder(scenario)
        name, strategy = strategy_of(self.strategy, stream)
        command = again(resumed=resume)
        keep_freed_memory()
        try:
            with (
                join(timeout=rank_timeout) as ranks,
                stopping(self.follow) as stop,
                ProgressDisplay(Console(stderr=True, quiet=quiet or not ranks.leader)) as display,
            ):
                result = runs.run_stream(
                    stream,
                    strategy,
                    out,
                    name=name,
                    student=None if self.student is None else architecture_of(self.student),
                    classes=self.classes,
                    seed=seed,
                    device=device,
                    execution=execution,
                    checkpoint_every=checkpoint_every,
                    resume=resume,
                    follow=self.follow,
                    stop=stop,
                    observers=[_tell_refused if quiet else display],
                    ranks=ranks,
                )
                quiet = quiet or not ranks.leader
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"; go on with: {command}") from None
        console = Console(quiet=quiet, highlight=False)
        console.print(f"Learned from {result.experiences} expert(s); they know {len(result.classes)} class(es).")
        if result.stopped:
            command = command if (out / "stream.json").exists() else command.removesuffix(" --resume")
            console.print(f"Stopped; go on with: {command}", markup=False, soft_wrap=True)
        console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)

    def _folder(self, scenario: str | None) -> Path:
        problem: tuple[str, str, str] | None = None
        lists = "'exml scenarios' lists the scenarios; --stream names a folder of experts"
        if self.stream is None and scenario is None:
            problem = "a SCENARIO or --stream FOLDER", "neither", lists
        elif self.stream is None:
            problem = "--stream with --follow, --student or --classes", f"the scenario {scenario!r}", lists
        elif scenario is not None:
            problem = "a SCENARIO or --stream FOLDER", "both", "leave one of them out"
        elif self.split is not None:
            problem = "no --split with --stream, where there is no test data", self.split, "leave it out"
        if problem is not None:
            raise SettingError(expected=problem[0], got=problem[1], remedy=problem[2])
        assert self.stream is not None
        return self.stream


def strategy_of(text: str, stream: Path) -> tuple[str, Strategy | Callable[[Mapping[str, ExpertCard]], Strategy]]:
    """The one strategy that --strategy names, and its name: a file, or a recipe that looks at the cards."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json") or os.sep in text:
        return path.stem, Strategy.load(path)
    if text not in RECIPES:
        raise SettingError(
            expected=f"one of {', '.join(RECIPES)}",
            got=repr(text),
            remedy="choose one, for a stream has one student, or give a YAML file",
        )
    return text, partial(runs.stream_strategy, text, stream)


def architecture_of(text: str) -> dict[str, Any]:
    """What --student says: NAME, NAME:setting=value,... or a YAML file with a name and settings."""
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json"):
        try:
            return _architecture(path.read_text(encoding="utf-8"), text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "", expected=f"a student in {path}", got=str(error), remedy="name a YAML or JSON file that exists"
            ) from None
    name, _, settings = text.partition(":")
    return _architecture(f"{{name: {name}, settings: {{{settings.replace('=', ': ')}}}}}", text)


def _architecture(plain: str, text: str) -> dict[str, Any]:
    try:
        found: Any = yaml.safe_load(plain)
    except yaml.YAMLError:
        found = None
    found = found if isinstance(found, dict) else {}
    settings = found.get("settings") or {}
    fits = isinstance(found.get("name"), str) and set(found) <= {"name", "settings"} and isinstance(settings, dict)
    if not fits or not all(isinstance(key, str) and value is not None for key, value in settings.items()):
        raise SettingError(
            expected="a student as in conv-net, in conv-net:widths=[8,16],batch_norm=false, or in a YAML file with "
            "name and settings",
            got=repr(text),
            remedy="correct it; exml.models.names() says what has a name",
        )
    return {"name": found["name"], "settings": settings}


@contextmanager
def stopping(follow: bool) -> Generator[runs.Stop]:
    """What SIGINT and SIGTERM ask inside the block of a run that follows a folder; a second one interrupts."""
    stop = runs.Stop()

    def ask(_signal: int, _frame: FrameType | None, /) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.ask()

    if not follow or threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_refused(event: Event, /) -> None:
    """For those who want to read errors only."""
    if isinstance(event, ExpertRefused):
        sys.stderr.write(f"exml: not learned from: {event.file}: {event.reason}\n")
