"""One run of a sweep, in the process that carries it out."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from exml import runs
from exml.core.errors import ExmlError
from exml.core.execution import Execution
from exml.engine import keep_freed_memory
from exml.learning.strategy import Strategy
from exml.runs.sweep._imports import import_all
from exml.runs.sweep.backend import Failure, Task, one_line


def attempt(task: Task) -> Failure | None:
    """Carry out a run from where it was left; what it prints goes into its log."""
    with _printing_into(Path(task.log)):
        try:
            torch.set_num_threads(task.threads)
            keep_freed_memory()
            import_all(task.imports)
            runs.run(
                runs.ScenarioExperts(task.scenario, task.split, task.experts, task.baselines),
                {task.strategy: Strategy.from_dict(task.parts)} if task.parts else {},
                task.folder,
                settings=runs.RunSettings(task.seed, task.device, Execution(task.compile, task.precision)),
                resume=(Path(task.folder) / "run.json").exists(),
            )
        except ExmlError as error:
            return Failure(one_line(str(error)), traceback.format_exc())
        except Exception as error:
            return Failure(one_line(f"{type(error).__name__}: {error}"), traceback.format_exc())
    return None


@contextmanager
def _printing_into(path: Path) -> Generator[None, None, None]:
    """Put a file behind the descriptors of stdout and stderr, so that what native code says on its death is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
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
