"""Jobs shared out to processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

import torch

from exml.core.errors import ExmlError, RankError
from exml.engine import keep_freed_memory

Tell: TypeAlias = Callable[[Any], None]


def share_out(
    work: Callable[[Any, Tell], None], jobs: Sequence[Any], workers: int, tell: Callable[[int, Any], None]
) -> None:
    """Do the jobs in their order, several at a time, each on one thread of the CPU.

    So what comes out does not depend on how many there are at a time. With one worker this process does them itself. A
    job that ends with an :class:`~exml.core.errors.ExmlError` does not end the others.

    Args:
        work: called with a job and a function for what it has to say; of a module, since other processes import it.
        jobs: plain data.
        workers: how many at a time.
        tell: called with the place of the job and what it says; its last word is None, or the error.

    Raises:
        RankError: a process died, or a job had another error; the others are ended then.
    """
    if workers == 1 or len(jobs) == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for place, job in enumerate(jobs):
                try:
                    work(job, partial(tell, place))
                except ExmlError as error:
                    tell(place, error)
                else:
                    tell(place, None)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
    waiting = deque(enumerate(jobs))
    busy: dict[Connection, int] = {}
    processes: list[Any] = []
    try:
        for _ in range(min(workers, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            process.start()
            theirs.close()  # or the end of the process would not be the end of the pipe
            processes.append(process)
            _give(ours, waiting, busy)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                _hear(connection, waiting, busy, tell)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _give(connection: Connection, waiting: deque[tuple[int, Any]], busy: dict[Connection, int]) -> None:
    if waiting:
        place, job = waiting.popleft()
        with suppress(BrokenPipeError):  # that it died is noticed when it is listened to
            connection.send(job)
        busy[connection] = place
    else:
        busy.pop(connection, None)


def _hear(
    connection: Connection,
    waiting: deque[tuple[int, Any]],
    busy: dict[Connection, int],
    tell: Callable[[int, Any], None],
) -> None:
    place = busy[connection]
    try:
        kind, said = connection.recv()
    except (EOFError, OSError):
        raise RankError(
            expected="worker processes that live until their work is done",
            got="one that was ended from outside (out of memory?)",
            remedy="take fewer workers; the same command goes on where this one ended",
        ) from None
    if kind == "bug":
        raise RankError(expected="work without a bug", got=said, remedy="report it")
    tell(place, _error(*said) if kind == "error" else said)
    if kind != "says":
        _give(connection, waiting, busy)


def _error(kind: type[ExmlError], text: str, fields: dict[str, Any]) -> ExmlError:
    """An error of another process; it cannot be pickled, since it is made with keywords."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    error.__dict__.update(fields)
    return error


def _serve(connection: Connection, work: Callable[[Any, Tell], None]) -> None:
    """What a worker does: one job after the other, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which then ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    while True:
        job = connection.recv()
        try:
            work(job, lambda said: connection.send(("says", said)))
        except ExmlError as error:
            connection.send(("error", (type(error), str(error), error.__dict__)))
        except Exception:
            connection.send(("bug", traceback.format_exc()))
        else:
            connection.send(("done", None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
