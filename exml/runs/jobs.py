"""Jobs: what executors carry out, one process per job, and what they report."""

from __future__ import annotations

import os
import sys
import textwrap
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import attrs
import torch

from exml.core.errors import ExmlError, SettingError
from exml.core.files import write_text
from exml.core.imports import import_all, imported
from exml.core.registry import component, role
from exml.core.validators import in_range, positive_int
from exml.engine import keep_freed_memory
from exml.learning.events import Event, JobProgress, Observer

H = TypeVar("H", bound=Hashable)
Report: TypeAlias = Callable[[int, int], None]
"""Reports progress: the number of steps done and the total."""


def _whole_gpus(instance: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if value > 1 and value != int(value):
        raise SettingError(expected="gpus of at most 1, or a whole number", got=repr(value), remedy="round it up")


@component
@attrs.frozen(kw_only=True)
class Resources:
    """What each job has to itself.

    Args:
        cpus: processor cores, and threads of torch.
        gpus: accelerators. Below 1, several jobs share one. A job sees no other accelerators.

    >>> from exml.runs import Resources
    >>> Resources(cpus=4, gpus=0.5)
    Resources(cpus=4, gpus=0.5)
    """

    cpus: int = attrs.field(default=1, validator=positive_int())
    gpus: float = attrs.field(default=0.0, validator=[in_range(0), _whole_gpus])


@attrs.frozen
class Job:
    """A call to be carried out, possibly in another process.

    Args:
        name: unique among the jobs of an executor.
        call: picklable; called with a function to report the steps done and the total.
        log: file for everything that the job prints in a process of its own.
        imports: modules that such a process imports first; by default those that this process has imported.
    """

    name: str
    call: Callable[[Report], object]
    log: Path
    imports: tuple[str, ...] = attrs.field(factory=imported)

    @property
    def progress(self) -> Path:
        """File with the steps done and the total, while the job runs in a process of its own."""
        return self.log.with_suffix(".progress")


@attrs.frozen
class Failure:
    """Why a job failed.

    Args:
        message: one line.
        details: a traceback, or the end of the job's log.
        error: the error itself, if exml raised it.
    """

    message: str
    details: str
    error: ExmlError | None = None

    @classmethod
    def of_process(cls, job: Job, message: str, /) -> Failure:
        """The failure of a job whose process ended without a result, with the end of its log."""
        printed = job.log.read_text(encoding="utf-8", errors="replace")[-20_000:] if job.log.exists() else ""
        return cls(one_line(message), f"{message}\n\n{printed}")


def one_line(message: str) -> str:
    """A message for a table, cut to 300 characters."""
    return textwrap.shorten(message, 300, placeholder="...")


@attrs.frozen
class Ended:
    """The end of a job.

    Args:
        name: of the job.
        failure: None if it succeeded.
    """

    name: str
    failure: Failure | None


Tell: TypeAlias = Callable[[JobProgress | Ended], None]


@role("sweep backend")
@runtime_checkable
class Executor(Protocol):
    """Carries out jobs, several at a time.

    A job that ends its process has failed; the other jobs continue. No job outlives the call or the calling process.
    """

    def __call__(self, jobs: Sequence[Job], resources: Resources, tell: Tell, /) -> None:
        """Carry out the jobs.

        Args:
            jobs: started in their order.
            resources: of each job.
            tell: called in this thread with the progress of jobs, and once at the end of each. An exception stops the
                remaining jobs.
        """
        ...


@component
@attrs.frozen
class ThisProcess:
    """Carries out jobs in the calling process, one at a time, without redirecting their output."""

    def __call__(self, jobs: Sequence[Job], resources: Resources, tell: Tell, /) -> None:
        """See :class:`Executor`."""
        threads = torch.get_num_threads()
        torch.set_num_threads(resources.cpus)
        try:
            for job in jobs:

                def report(done: int, total: int, name: str = job.name) -> None:
                    tell(JobProgress(name, done, total))

                tell(Ended(job.name, perform(job, report)))
        finally:
            torch.set_num_threads(threads)


def perform(job: Job, report: Report) -> Failure | None:
    """Call a job and catch its error."""
    try:
        job.call(report)
    except ExmlError as error:
        return Failure(one_line(str(error)), traceback.format_exc(), error)
    except Exception as error:
        return Failure(one_line(f"{type(error).__name__}: {error}"), traceback.format_exc())
    return None


def perform_in_worker(job: Job, threads: int) -> Failure | None:
    """Call a job in a process that carries out nothing else; its output goes to its log."""
    with _printing_into(job.log):
        import_all(job.imports)
        torch.set_num_threads(threads)
        keep_freed_memory()
        return perform(job, lambda done, total: write_text(job.progress, f"{done} {total}"))


@contextmanager
def _printing_into(path: Path) -> Generator[None, None, None]:
    """Redirect the descriptors of stdout and stderr, which also keeps the last output of native code that crashes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for place, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, place)
            os.close(descriptor)


def supervise(
    jobs: Sequence[Job],
    workers: int | None,
    tell: Tell,
    start: Callable[[Job], H],
    wait: Callable[[Sequence[H]], Collection[H]],
    outcome: Callable[[Job, H], Failure | None],
) -> None:
    """Carry out jobs in other processes, at most ``workers`` at a time.

    ``start`` starts a job and returns a handle, ``wait`` waits a moment and returns the handles of jobs that ended, and
    ``outcome`` returns the failure of such a job.
    """
    waiting, running, seen = deque(jobs), dict[H, Job](), dict[str, str]()
    while waiting or running:
        while waiting and (workers is None or len(running) < workers):
            job = waiting.popleft()
            for path in (job.log, job.progress):  # of an earlier attempt
                path.unlink(missing_ok=True)
            running[start(job)] = job
        ended = wait(list(running))
        for handle, job in list(running.items()):
            text = job.progress.read_text() if job.progress.exists() else ""
            if text and seen.get(job.name) != text:
                seen[job.name] = text
                done, total = map(int, text.split())
                tell(JobProgress(job.name, done, total))
            if handle in ended:
                del running[handle]
                job.progress.unlink(missing_ok=True)
                tell(Ended(job.name, outcome(job, handle)))


def to_all(observers: Sequence[Observer]) -> Callable[[Event], None]:
    """A function that passes an event to all observers."""

    def emit(event: Event, /) -> None:
        for observer in observers:
            observer(event)

    return emit
