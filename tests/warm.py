"""Run commands of exml, each in a fork of a process that has imported torch, which saves seconds per command.

Windows has no fork; a command is slower there.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    _FORKS.set_forkserver_preload(["exml.cli._main", "exml.recipes", "exml.runs.sweep", "torch._dynamo", "torchvision"])


def exml(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``exml ARGUMENTS`` in the current folder."""
    with tempfile.TemporaryDirectory() as place:
        told = [Path(place, name) for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_run, args=(arguments, Path.cwd(), dict(environment), told))
        process.start()
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode, *(path.read_text() for path in told))


def _run(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], told: Sequence[Path]) -> None:
    from exml.cli import main

    os.chdir(folder)
    for stream, path in enumerate(told, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["exml", *arguments]
    sys.exit(main())
