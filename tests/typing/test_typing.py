"""Both type checkers find exactly the faults that are there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = (HERE / "complete.py", HERE / "faulty.py")


def pyright() -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p"]
    config = HERE / "pyrightconfig.json"
    output = subprocess.run([*command, str(config)], capture_output=True, text=True, check=False)
    found = json.loads(output.stdout)["generalDiagnostics"]
    return {(Path(entry["file"]).name, entry["range"]["start"]["line"] + 1) for entry in found}


def mypy() -> set[tuple[str, int]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent"]
    output = subprocess.run([*command, *FILES], capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    lines = re.findall(r"(\w+\.py):(\d+): error", output.stdout)
    assert lines or not output.stdout, output.stdout + output.stderr
    return {(name, int(number)) for name, number in lines}


@pytest.mark.parametrize("checker", [pyright, mypy])
def test_exactly_the_marked_lines_are_refused(checker):
    lines = ((file.name, *line) for file in FILES for line in enumerate(file.read_text().splitlines(), 1))
    assert checker() == {(name, number) for name, number, line in lines if line.endswith("# error")}
