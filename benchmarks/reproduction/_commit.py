"""Which exml this is."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """What ``EXML_COMMIT`` says, or git of the working copy that this file stands in; None where neither does.

    A ``+`` behind it says that files had been changed.
    """
    if named := os.environ.get("EXML_COMMIT"):
        return named
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
