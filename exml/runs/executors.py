"""Executors of jobs in other processes: on this machine, started by loky, or anywhere, as tasks of Ray."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from typing import Any

import attrs
import torch
from loky import ProcessPoolExecutor

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.validators import positive_int
from exml.runs.environment import cores
from exml.runs.jobs import Failure, Job, Resources, Tell, perform_in_worker, supervise

PERIOD = 0.2
"""Seconds between two checks: of the progress of jobs, and of workers whether their parent lives."""


@component
@attrs.frozen
class LocalProcesses:
    """Worker processes that carry out one job at a time; one that dies is replaced.

    The workers end with the calling process, no matter how it ends.

    Args:
        workers: number of processes; by default as many as the cores or GPUs allow for the resources of each job.
        isolate_gpus: whether a job sees only its own GPUs; otherwise it sees all GPUs.

    >>> from exml.runs import LocalProcesses, Resources
    >>> LocalProcesses(3).slots(Resources(cpus=2))
    ['', '', '']
    """

    workers: int | None = attrs.field(default=None, validator=positive_int(optional=True))
    isolate_gpus: bool = True

    def slots(self, resources: Resources, /) -> list[str]:
        """The GPUs that each worker sees, as in ``CUDA_VISIBLE_DEVICES``.

        Raises:
            SettingError: there are too few GPUs for a job or for the number of workers.
        """
        fit = max(1, cores() // resources.cpus)
        gpus = _gpus()
        if not self.isolate_gpus or not resources.gpus:
            return ["" if self.isolate_gpus else ",".join(gpus)] * (self.workers or fit)
        each = max(1, int(resources.gpus))
        groups = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
        shared = groups * max(1, int(1 / resources.gpus))  # each group has one job before any has two
        if not shared or len(shared) < (self.workers or 0):
            raise SettingError(
                expected=f"GPUs for {self.workers or 1} run(s) at a time with {resources.gpus:g} each",
                got=f"{len(gpus)} GPU(s)",
                remedy="lower the number of workers, or resources.gpus",
            )
        return shared[: self.workers or min(fit, len(shared))]

    def __call__(self, jobs: Sequence[Job], resources: Resources, tell: Tell, /) -> None:
        """See :class:`exml.runs.Executor`; raises the errors of :meth:`slots`."""
        workers = [_Worker(gpus, resources.cpus) for gpus in self.slots(resources)[: len(jobs)]]
        idle, busy = list(workers), dict[Future[Any], _Worker]()

        def start(job: Job) -> Future[Any]:
            worker = idle.pop(0)
            future = worker.submit(job)
            busy[future] = worker
            return future

        def outcome(job: Job, future: Future[Any]) -> Failure | None:
            worker, error = busy.pop(future), future.exception()
            idle.append(worker)
            if error is None:
                return future.result()
            worker.kill()
            return Failure.of_process(job, _cause(error))

        def wait(futures: Sequence[Future[Any]]) -> set[Future[Any]]:
            return wait_for(futures, PERIOD, FIRST_COMPLETED).done

        try:
            supervise(jobs, len(workers), tell, start, wait, outcome)
        finally:
            for worker in workers:
                worker.kill()


class _Worker:
    """One process, started when it is first needed."""

    def __init__(self, gpus: str, threads: int) -> None:
        self._threads = threads
        self._environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._environment["CUDA_VISIBLE_DEVICES"] = gpus
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, job: Job) -> Future[Any]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=1, env=self._environment, initializer=_follow_parent, initargs=(os.getpid(),)
            )
        return self._pool.submit(perform_in_worker, job, self._threads)

    def kill(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


def _follow_parent(parent: int) -> None:
    """Make this process end with its parent, even in the middle of a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PERIOD)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cause(error: BaseException) -> str:
    """Why there is no result. loky puts exit codes into its message: ``{SIGKILL(-9)}``, ``{EXIT(3)}``."""
    found = re.search(r"\{(\w+)\((-?\d+)\)\}", str(error))
    if found is None:
        return f"{type(error).__name__}: {error}"
    name, code = found.groups()
    if int(code) >= 0:
        return f"the process of the job ended with exit code {code}"
    name = name if name != "UNKNOWN" else f"signal {-int(code)}"
    return f"the process of the job was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


def _gpus() -> list[str]:
    """The GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(place) for place in range(torch.cuda.device_count())]
    return [name for name in visible.split(",") if name.strip()]


@component
@attrs.frozen
class RayCluster:
    """Ray schedules the jobs by their resources, each as a task without retries.

    All machines of a cluster need exml, the same versions of the packages that the numbers depend on, and a file system
    that shows the folder of the jobs under the same path as on this machine.

    Args:
        address: of a running cluster, as for ``ray.init``: ``"auto"``, ``"ray://host:10001"``. None starts Ray on this
            machine while the jobs run. If this process has already initialized Ray, that instance is used.
        workers: maximum number of jobs at a time; by default as many as Ray has room for.

    >>> from exml.runs import RayCluster
    >>> RayCluster("auto")
    RayCluster(address='auto', workers=None)
    """

    address: str | None = None
    workers: int | None = attrs.field(default=None, validator=positive_int(optional=True))

    def __call__(self, jobs: Sequence[Job], resources: Resources, tell: Tell, /) -> None:
        """See :class:`exml.runs.Executor`.

        Raises:
            SettingError: Ray is not installed, no cluster is at the address, or this machine has too few GPUs.
        """
        ray = _import_ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray, resources)
        remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(perform_in_worker)
        running = set[Any]()

        def start(job: Job) -> Any:
            reference = remote.options(name=job.name).remote(job, resources.cpus)
            running.add(reference)
            return reference

        def wait(references: Sequence[Any]) -> Sequence[Any]:
            return ray.wait(references, timeout=PERIOD)[0]

        def outcome(job: Job, reference: Any) -> Failure | None:
            running.remove(reference)
            try:
                return ray.get(reference)
            except ray.exceptions.RayError as error:  # its process or its machine is gone
                return Failure.of_process(job, f"{type(error).__name__}: {error}")

        try:
            supervise(jobs, self.workers, tell, start, wait, outcome)
        finally:
            if ours:
                ray.shutdown()
            else:
                for reference in running:
                    ray.cancel(reference, force=True)

    def _connect(self, ray: Any, resources: Resources) -> None:
        quiet = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:
            cores = max(os.cpu_count() or 1, resources.cpus)
            ray.init("local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
            gpus = ray.cluster_resources().get("GPU", 0)
            if gpus < resources.gpus:  # Ray would wait for them forever
                ray.shutdown()
                expected, remedy = f"a machine with {resources.gpus:g} GPU(s) for each run", "lower resources.gpus"
                raise SettingError(expected=expected, got=f"{gpus:g}", remedy=f"{remedy}, or name a cluster")
            return
        try:
            ray.init(self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            expected, got = f"a Ray cluster at {self.address!r}", " ".join(str(error).split())
            remedy = "start one with 'ray start --head', or omit the address"
            raise SettingError(expected=expected, got=got, remedy=remedy) from error


def _import_ray() -> Any:
    # Ray reads both when it is imported. Under 'uv run', each worker would otherwise get a new environment made from a
    # copy of the working folder; and Ray would report its use to its makers.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        remedy = "pip install exml[ray], or use local processes"
        raise SettingError(expected="Ray to be installed", got=str(error), remedy=remedy) from None
    return ray
