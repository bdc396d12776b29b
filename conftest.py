"""Run every example of the Markdown pages as part of ``pytest``.

A ``python`` block runs as it is, or as a doctest if it has prompts. All blocks of a page share their names, from top to
bottom. A ``{code-block}`` with a caption is the file that the caption names, for later examples to use; every
``yaml`` block is such a file. In ``docs/``, each line of a ``console`` block that starts with ``$`` runs as a command,
which must succeed and print the text below it, if there is any. The gate runs the commands of the README, which need a
clone of the repository. An ``sh`` block shows commands that need what a page lacks, such as two GPUs; those of exml are
parsed. Each page runs in its own empty folder. Examples of the package run without the names of their module.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.myst.lexers import DirectiveLexer
from sybil.typing import Parser

from tests import warm

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


collect_ignore_glob = ["docs/*.py", "docs/_*"]


PROCESSES = (
    "tests/distributed/test_processes.py",
    "tests/sweep/test_backends.py",
    "tests/test_cli.py",
    "tests/test_interruptions.py",
    "tests/test_zoo.py",
)
"""Tests that start processes and wait for them. They run one after another."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With ``-n``, nothing is benchmarked, because tests that run at the same time would disturb it."""
    if config.getoption("numprocesses", None):
        config.option.benchmark_disable = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, the examples of a page run in one process, and so do the tests that start processes.

    Scopes follow from paths, because xdist 3.8 ignores its own ``xdist_group`` under pytest 9.2
    (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPath(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "processes" if path in PROCESSES else path if path.endswith(".md") else nodeid

    return ByPath(config, log)


def pytest_sessionstart() -> None:
    """Import all of the package; pytest would execute a module a second time that an earlier import has loaded."""
    import exml.runs  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The examples of the package see no name of their module, as when they are pasted into a new interpreter."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and "benchmarks" not in item.path.parts:
            item.dtest.globs = {"__name__": "__main__"}


def run_commands(example: Example) -> None:
    """Run the commands of a ``console`` block in this environment and compare their output."""
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    first, *blocks = re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)
    assert not first.strip(), f"a console block begins with a command ($ ...), not with {first!r}"
    for block in blocks:
        command, _, expected = block.partition("\n")
        name, *arguments = shlex.split(command)
        if name == "exml":
            done = warm.exml(arguments, environment)
        else:
            done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"$ {command}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        if expected.strip() and not doctest.OutputChecker().check_output(expected, done.stdout, OPTIONS):
            difference = doctest.OutputChecker().output_difference(
                doctest.Example(command, expected), done.stdout, OPTIONS
            )
            raise AssertionError(f"$ {command}\n{difference}")


def parse_commands(example: Example) -> None:
    """Parse the exml commands of an ``sh`` block: their names and options must exist."""
    from exml.cli._main import app

    for line in str(example.parsed).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["exml"] or " -m exml " in line:
            app.parse_args(words[words.index("exml") + 1 :], print_error=False, exit_on_error=False)


def files(document: Document) -> Iterable[Region]:
    """Every block with a file name as its caption."""
    for region in DirectiveLexer("code-block", ".+")(document):
        region.parsed, region.evaluator = region.lexemes, write_file
        yield region


def write_file(example: Example) -> None:
    """Write a block to the file that its caption names."""
    Path(example.parsed["options"]["caption"]).write_text(str(example.parsed["source"]))


def reject(example: Example) -> None:
    """Fail a block that nothing could use."""
    raise AssertionError("name the file of this block: ```{code-block} yaml, and :caption: NAME.yaml on the next line")


def enter_folder(names: dict[str, Any]) -> None:
    """Change to a new folder, so that a page can write files and import modules."""
    names["_came_from"], names["_folder"] = Path.cwd(), tempfile.TemporaryDirectory()
    os.chdir(names["_folder"].name)
    sys.path.insert(0, names["_folder"].name)


def leave_folder(names: dict[str, Any]) -> None:
    """Change back, forget the modules of the page and delete the folder."""
    os.chdir(names["_came_from"])
    sys.path.remove(names["_folder"].name)
    for module in Path(names["_folder"].name).glob("*.py"):
        sys.modules.pop(module.stem, None)
    names["_folder"].cleanup()


def pages(*patterns: str, parsers: Sequence[Parser] = ()) -> Sybil:
    """Run the examples of the pages that match."""
    python = PythonCodeBlockParser(doctest_optionflags=OPTIONS)
    yaml = CodeBlockParser(language="yaml", evaluator=reject)
    shell = CodeBlockParser(language="sh", evaluator=parse_commands)
    return Sybil(
        parsers=[python, yaml, shell, files, *parsers], patterns=patterns, setup=enter_folder, teardown=leave_folder
    )


console = CodeBlockParser(language="console", evaluator=run_commands)
pytest_collect_file = (
    pages("README.md", "CONTRIBUTING.md") + pages("docs/*.md", "docs/*/*.md", parsers=[console])
).pytest()
