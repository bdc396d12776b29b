"""Where datasets lie."""

from __future__ import annotations

import os
from pathlib import Path


def dataset_folder() -> Path:
    """What ``EXML_DATA`` names; else exml's own folder in the user's cache, which downloads go to.

    To a folder that somebody named nothing is ever added.
    """
    named = os.environ.get("EXML_DATA")
    return Path(named).expanduser() if named else cache_folder()


def cache_folder() -> Path:
    """A folder of exml's own in the user's cache: ``XDG_CACHE_HOME``, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exml"
