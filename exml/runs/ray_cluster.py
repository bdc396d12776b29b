"""Jobs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.validators import positive_int
from exml.runs.jobs import Failure, Job, ProgressFiles, Resources, Tell, perform_in_worker

PERIOD = 0.5
"""Seconds to wait for Ray at a time; Ctrl-C is noticed in between."""


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

    >>> RayCluster("auto")
    RayCluster(address='auto', workers=None)
    """

    address: str | None = None
    workers: int | None = attrs.field(default=None, validator=positive_int(optional=True))

    def __call__(self, jobs: Sequence[Job], resources: Resources, tell: Tell, /) -> None:
        """See :class:`exml.runs.Executor`.

        Raises:
            SettingError: when Ray is not installed, no cluster is at the address, or this machine has too few GPUs.
        """
        ray = _import_ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray, resources)
        remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0)(perform_in_worker)
        waiting, running = deque(jobs), dict[Any, Job]()
        progress = ProgressFiles(tell)
        try:
            while waiting or running:
                while waiting and (self.workers is None or len(running) < self.workers):
                    job = waiting.popleft()
                    progress.begin(job)
                    running[remote.options(name=job.name).remote(job, resources.cpus)] = job
                over, under_way = ray.wait(list(running), timeout=PERIOD)
                for reference in under_way:
                    progress.read(running[reference])
                for reference in over:
                    job = running.pop(reference)
                    try:
                        failure = ray.get(reference)
                    except ray.exceptions.RayError as error:  # its process or its machine is gone
                        failure = Failure.of_process(job, f"{type(error).__name__}: {error}")
                    progress.end(job, failure)
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
                raise SettingError(
                    expected=f"a machine with {resources.gpus:g} GPU(s) for each run",
                    got=f"{gpus:g}",
                    remedy="lower resources.gpus, or give the address of a cluster",
                )
            return
        try:
            ray.init(self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SettingError(
                expected=f"a Ray cluster at {self.address!r}",
                got=" ".join(str(error).split()),
                remedy="start one with 'ray start --head', or omit the address",
            ) from error


def _import_ray() -> Any:
    # Ray reads both when it is imported. Under 'uv run', each worker would otherwise get a new environment made from a
    # copy of the working folder; and Ray would report its use to its makers.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingError(
            expected="Ray to be installed", got=f"{error}", remedy="pip install exml[ray], or use local processes"
        ) from None
    return ray
