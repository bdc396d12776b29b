"""What carries out the runs of a sweep, and what it is told and tells."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import attrs

from exml.runs.sweep.sweep import Resources

LONGEST = 300
"""Characters of a message; longer ones are cut."""


@attrs.frozen(kw_only=True)
class Task:
    """One run as plain data, for whichever process takes it.

    Args:
        name: of the run.
        scenario: its name.
        strategy: name of the strategy.
        parts: the strategy as plain data; empty if only the baselines are to be measured.
        seed: of the run.
        split: what the accuracies are measured on.
        device: where to work.
        compile: as :class:`exml.engine.Execution` has it, like the next.
        precision: of the networks.
        threads: of torch on the CPU.
        imports: modules to be imported first.
        folder: of the run.
        experts: folder of the experts, which it shares with others.
        log: file for what the run prints.
        baselines: whether to measure them.
    """

    name: str
    scenario: str
    strategy: str
    parts: Mapping[str, Any]
    seed: int
    split: Literal["test", "validation"]
    device: str
    compile: Literal["never", "capture", "always", "auto"]
    precision: Literal["float32", "bfloat16"]
    threads: int
    imports: tuple[str, ...]
    folder: str
    experts: str
    log: str
    baselines: bool = True


@attrs.frozen
class Failure:
    """Why there is no result.

    Args:
        message: one line, not too long.
        details: a traceback, or the last of what the process printed.
    """

    message: str
    details: str

    @classmethod
    def of_process(cls, task: Task, message: str, /) -> Failure:
        """Of a process that ended without a word of its own; the log of its run may say more."""
        log = Path(task.log)
        printed = log.read_text(encoding="utf-8", errors="replace")[-20_000:] if log.exists() else ""
        return cls(one_line(message), f"{message}\n\n{printed}")


def one_line(message: str) -> str:
    """A message for a table."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


@attrs.frozen
class Ended:
    """A run is over.

    Args:
        name: of the run.
        failure: None if all went well.
    """

    name: str
    failure: Failure | None


@runtime_checkable
class Backend(Protocol):
    """Whoever carries out runs, several at a time.

    A run that ends its process is a failed run, and the others go on. When the generator is closed, or the process that
    iterates dies, no run may go on.
    """

    def __call__(self, tasks: Sequence[Task], resources: Resources, /) -> Generator[Ended, None, None]:
        """Begin the tasks in their order, each with these resources, and tell of each when it is over."""
        ...
