"""The import graph is the design's: floors respected, no circles, and one door out."""

import ast
import graphlib
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, held against the exml package in a folder."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("exml", exclude_type_checking_imports=True, cache_dir=None)


def test_the_contracts_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        (
            "samples.py",
            "from exml.learning.builder import StrategyBuilder",
            "exml.core.samples is not allowed to import exml.learning.builder",
        ),
        ("priors/activation.py", "import exml.experts", "exml.priors is not allowed to import exml.experts"),
        ("engine/frozen.py", "import exml.losses", "exml.engine is not allowed to import exml.losses"),
        (
            "losses/__init__.py",
            "def late():\n    import exml.learning.learner",
            "exml.losses is not allowed to import exml.learning.learner",
        ),
        ("attic.py", "", "exml.attic"),
    ],
    ids=["upwards", "sideways", "engine", "inside a function", "without a floor"],
)
def test_the_contracts_notice(tmp_path: Path, module: str, line: str, complaint: str):
    shutil.copytree(ROOT / "exml", tmp_path / "exml", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "exml" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in " ".join(done.stdout.split())


def test_no_module_imports_itself_by_a_detour(graph: grimp.ImportGraph):
    """Stricter than the contract on circles: a module and its own folder's ``__init__`` count too."""
    order = graphlib.TopologicalSorter(
        {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    )
    order.prepare()  # raises CycleError, which names the circle


def test_nothing_inside_imports_the_front_door(graph: grimp.ImportGraph):
    assert graph.find_modules_that_directly_import("exml") - {"exml"} == set()


def test_importing_exml_is_enough():
    """The documentation writes ``exml.normalizers.CenterLogits``; a family of parts is one import away."""
    parts = ["baselines", "buffers", "experts", "generators", "losses", "models", "priors", "recipes", "scenarios"]
    reached = "; ".join(f"exml.{part}" for part in [*parts, "errors", "events"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import exml; {reached}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "exml").rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_folder_only_says_what_is_public(path: Path):
    tree = ast.parse(path.read_text())
    logic = [node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom | ast.Assign)]
    assigned = [ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert ast.get_docstring(tree)
    assert [ast.unparse(node) for node in logic] == []
    assert [name for name in assigned if name != "__version__"] == ["__all__"]
