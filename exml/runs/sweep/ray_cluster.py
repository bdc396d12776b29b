"""Runs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

import attrs

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.validators import positive_int
from exml.runs.sweep._attempt import attempt
from exml.runs.sweep.backend import Ended, Failure, Task
from exml.runs.sweep.sweep import Resources

PERIOD = 0.5
"""Seconds that Ray is waited for at a time, so that Ctrl-C is heard."""


@component
@attrs.frozen
class RayCluster:
    """Ray schedules the runs by their resources, each a task that is tried once.

    A cluster's machines must have exml and the same versions of everything that the numbers depend on, and the folder
    of the sweep must be on a file system that all of them, and this machine, see under the same path.

    Args:
        address: of a running cluster, as ``ray.init`` takes it: ``"auto"``, ``"ray://host:10001"``; None starts Ray on
            this machine for the time of the sweep. A Ray that this process has begun already is used as it is.
        workers: how many runs at a time at most; by default as many as Ray finds room for.

    >>> RayCluster("auto")
    RayCluster(address='auto', workers=None)
    """

    address: str | None = None
    workers: int | None = attrs.field(default=None, validator=positive_int(optional=True))

    def __call__(self, tasks: Sequence[Task], resources: Resources, /) -> Generator[Ended, None, None]:
        """Begin the tasks in their order, each with these resources, and tell of each when it is over.

        Raises:
            SettingError: Ray is not installed, there is no cluster at the address, or too few GPUs are here.
        """
        ray = _import_ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray, resources)
        remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(attempt)
        waiting, running = deque(tasks), dict[Any, Task]()
        try:
            while waiting or running:
                while waiting and (self.workers is None or len(running) < self.workers):
                    task = waiting.popleft()
                    running[remote.options(name=task.name).remote(task)] = task
                over, _ = ray.wait(list(running), timeout=PERIOD)
                for reference in over:
                    task = running.pop(reference)
                    try:
                        failure = ray.get(reference)
                    except ray.exceptions.RayError as error:  # its process or its machine is gone
                        failure = Failure.of_process(task, f"{type(error).__name__}: {error}")
                    yield Ended(task.name, failure)
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
            if gpus < resources.gpus:  # it would be waited for, for ever
                ray.shutdown()
                raise SettingError(
                    expected=f"a machine with {resources.gpus:g} GPU(s) for each run",
                    got=f"{gpus:g}",
                    remedy="lower resources.gpus, or name the address of a cluster",
                )
            return
        try:
            ray.init(self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingError(
                expected=f"a Ray cluster at {self.address!r}",
                got=" ".join(str(error).split()),
                remedy="start one with 'ray start --head', or leave the address out",
            ) from error


def _import_ray() -> Any:
    # Under 'uv run' Ray would otherwise make an environment of its own, from a copy of the working folder, for each
    # worker; and it would report the use of Ray to its makers. Both are read when it is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingError(
            expected="Ray, for a sweep that it shall carry out",
            got=f"{error}",
            remedy="pip install exml[ray], or take local processes",
        ) from None
    return ray
