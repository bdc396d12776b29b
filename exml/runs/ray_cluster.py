"""Jobs as tasks of Ray, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs

from exml.core.errors import SettingError
from exml.core.registry import component
from exml.core.validators import positive_int
from exml.runs.jobs import Failure, Job, Resources, Tell, perform_in_worker, supervise

PERIOD = 0.5
"""Seconds between two checks of the jobs; Ctrl-C is noticed in between."""


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
