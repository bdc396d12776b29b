"""Both type checkers find exactly the faults that are there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pyright(file: Path) -> set[int]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p"]
    config = HERE / "pyrightconfig.json"
    output = subprocess.run([*command, str(config)], capture_output=True, text=True, check=False)
    found = json.loads(output.stdout)["generalDiagnostics"]
    return {entry["range"]["start"]["line"] + 1 for entry in found if Path(entry["file"]).name == file.name}


def mypy(file: Path) -> set[int]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", str(file)]
    output = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    lines = re.findall(rf"{file.name}:(\d+): error", output.stdout)
    assert lines or not output.stdout, output.stdout + output.stderr
    return set(map(int, lines))


@pytest.mark.parametrize("checker", [pyright, mypy])
@pytest.mark.parametrize("name", ["complete.py", "faulty.py"])
def test_exactly_the_marked_lines_are_refused(checker, name):
    file = HERE / name
    marked = {number for number, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# error")}
    assert checker(file) == marked
