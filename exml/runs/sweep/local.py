"""Runs in processes of this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import torch

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.validators import positive_int
from exml.runs.environment import cores
from exml.runs.sweep.backend import Ended, Failure, Task
from exml.runs.sweep.sweep import Resources

COMMAND = (sys.executable, "-P", "-m", "exml.runs.sweep._worker")
"""Starts a worker."""


@component
@attrs.frozen
class LocalProcesses:
    """Some worker processes, each with one run at a time; one that dies is replaced.

    The workers end with this process, whatever ends it.

    Args:
        workers: how many; by default as many as there are cores, or GPUs, for what each run has for itself.

    >>> LocalProcesses(3).slots(Resources(cpus=2))
    [None, None, None]
    """

    workers: int | None = attrs.field(default=None, validator=positive_int(optional=True))

    def slots(self, resources: Resources, /) -> list[str | None]:
        """For each worker, the GPUs that it shall see, as ``CUDA_VISIBLE_DEVICES`` has them; None if it has none.

        Raises:
            SettingError: a run shall have more GPUs than there are, or there are more workers than GPUs for them.
        """
        fit = max(1, cores() // resources.cpus)
        if not resources.gpus:
            return [None] * (self.workers or fit)
        gpus = _gpus()
        each = max(1, int(resources.gpus))
        groups = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        shared = groups * max(1, int(1 / resources.gpus))  # the first run of each group before the second of any
        if not shared or len(shared) < (self.workers or 0):
            raise SettingError(
                expected=f"GPUs for {self.workers or 1} run(s) at a time with {resources.gpus:g} each",
                got=f"{len(gpus)} GPU(s)",
                remedy="lower the number of workers, or resources.gpus",
            )
        return list(shared[: self.workers or min(fit, len(shared))])

    def __call__(self, tasks: Sequence[Task], resources: Resources, /) -> Generator[Ended, None, None]:
        """Begin the tasks in their order, each with these resources, and tell of each when it is over.

        Raises:
            SettingError: a run shall have more GPUs than there are, or there are more workers than GPUs for them.
        """
        pool = _Pool(tasks, resources)
        slots = self.slots(resources)[: len(tasks)]
        threads = [threading.Thread(target=pool.work, args=(gpus,), daemon=True) for gpus in slots]
        try:
            for thread in threads:
                thread.start()
            for _ in tasks:
                told = pool.ended.get()
                if isinstance(told, BaseException):
                    raise told
                yield told
        finally:
            pool.stop()
            for thread in threads:
                thread.join()


class _Pool:
    """What the threads share that look after one worker each."""

    def __init__(self, tasks: Sequence[Task], resources: Resources) -> None:
        self._waiting = deque(tasks)
        self._threads = resources.cpus
        self.ended: queue.SimpleQueue[Ended | BaseException] = queue.SimpleQueue()
        self._workers: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def work(self, gpus: str | None) -> None:
        """Have one worker carry out tasks while there are any."""
        worker = None
        try:
            while (task := self._next()) is not None:
                worker = worker or self._start(gpus)
                answer = _ask(worker, task)
                if answer is None:
                    code = worker.wait()
                    self._end(worker)
                    worker = None
                    self.ended.put(Ended(task.name, Failure.of_process(task, _cause(code))))
                else:
                    plain = json.loads(answer)
                    self.ended.put(Ended(task.name, Failure(**plain) if plain else None))
        except BaseException as error:
            self.ended.put(error)
        finally:
            if worker is not None:
                self._end(worker)

    def stop(self) -> None:
        """End all workers, and let none begin."""
        with self._lock:
            self._stopped = True
            for worker in self._workers:
                worker.kill()

    def _next(self) -> Task | None:
        with self._lock:
            return None if self._stopped or not self._waiting else self._waiting.popleft()

    def _start(self, gpus: str | None) -> subprocess.Popen[str]:
        changes = {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        changes["CUDA_VISIBLE_DEVICES"] = gpus or ""
        changes["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)  # it finds what we find
        with self._lock:
            worker = subprocess.Popen(
                COMMAND,
                env={**os.environ, **changes},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the sweep, which then ends its workers
            )
            self._workers.add(worker)
            if self._stopped:
                worker.kill()
        return worker

    def _end(self, worker: subprocess.Popen[str]) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what it was to be told is in the pipe still
                pipe.close()


def _ask(worker: subprocess.Popen[str], task: Task) -> str | None:
    """A worker's answer; None if it died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(attrs.asdict(task)) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except OSError:
        return None
    return answer if answer.endswith("\n") else None


def _cause(code: int) -> str:
    if code >= 0:
        return f"the process of the run ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"the process of the run was killed by {name}{hint}"


def _gpus() -> list[str]:
    """Those that this process may use, by the names that it knows them by."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(place) for place in range(torch.cuda.device_count())]
    return [name for name in visible.split(",") if name.strip()]
