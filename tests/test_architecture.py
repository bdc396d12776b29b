"""The import graph: floors respected, no circles, one lazy front door."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml against the exml package in a folder."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("exml", exclude_type_checking_imports=False, cache_dir=None)


def test_the_contracts_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("core/samples.py", "import exml.learning.builder", "exml.core is not allowed to import exml.learning"),
        ("priors/pixels.py", "import exml.experts", "exml.priors is not allowed to import exml.experts"),
        ("engine/training.py", "import exml.generators", "exml.engine is not allowed to import exml.generators"),
        ("losses/__init__.py", "def late():\n    import exml.runs", "exml.losses is not allowed to import exml.runs"),
        (
            "losses/losses.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import exml.recipes",
            "exml.losses is not allowed to import exml.recipes",
        ),
        ("core/shapes.py", "import exml.core.samples", "No cycles are allowed in exml.core"),
        ("attic.py", "", "exml.attic"),
    ],
    ids=["upwards", "sideways", "engine", "inside a function", "for type checkers only", "in a circle", "no floor"],
)
def test_the_contracts_notice(tmp_path: Path, module: str, line: str, complaint: str):
    shutil.copytree(ROOT / "exml", tmp_path / "exml", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "exml" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in " ".join(done.stdout.split())


def test_the_house_stays_small(graph: grimp.ImportGraph):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    rooms = graph.find_children("exml") - {"exml.__main__"}
    assert len(floors) - 1 <= 10  # without __main__
    assert len(rooms) <= 25, sorted(rooms)


def test_nothing_inside_imports_the_front_door(graph: grimp.ImportGraph):
    assert graph.find_modules_that_directly_import("exml") - {"exml"} == set()


@pytest.mark.parametrize("module", ["exml.core", "exml.protocols"])
def test_the_contract_stands_on_the_core_alone(graph: grimp.ImportGraph, module: str):
    imported = {
        "exml." + found.split(".")[1]
        for part in {module, *graph.find_descendants(module)}
        for found in graph.find_modules_directly_imported_by(part)
        if found.startswith("exml.")
    }
    assert imported <= {"exml.core", module}


def test_nothing_imports_private_names_of_another_room(graph: grimp.ImportGraph):
    intruders = {
        f"{importer} imports {private}"
        for private in graph.modules
        if any(part.startswith("_") for part in private.split(".")[1:])
        for importer in graph.find_modules_that_directly_import(private)
        if importer.split(".")[:2] != private.split(".")[:2]
    }
    assert intruders == set()


def test_importing_exml_reaches_everything_and_loads_nothing():
    """``import exml`` is lazy; ``exml.normalizers.CenterLogits`` and the names of the front door load when used."""
    code = "import exml, sys; assert 'torch' not in sys.modules; [getattr(exml, name) for name in exml.__all__]"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "exml").rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_room_says_what_it_is_and_holds_no_code(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.parent.name == "exml":  # the front door, with its names in __init__.pyi
        return
    statements = [node for node in tree.body[1:] if not isinstance(node, ast.ImportFrom | ast.Assign)]
    assigned = [ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    assert [ast.unparse(node) for node in statements] == []
    assert assigned == ([] if path.parent.name == "core" else ["__all__"])
