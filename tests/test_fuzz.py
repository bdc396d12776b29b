"""A short fuzz, with the same cases each time; ``python tests/fuzz.py --minutes N`` draws others for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="cases run in forked processes with limits of memory")
def test_hostile_files_are_refused_in_one_message_or_accepted_with_nothing_wrong(tmp_path):
    command = [sys.executable, Path(__file__).with_name("fuzz.py"), "--minutes=8", "--examples=40", "--save", tmp_path]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
