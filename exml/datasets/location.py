"""The folders of datasets."""

from __future__ import annotations

import os
from pathlib import Path


def dataset_folder() -> Path:
    """The folder in ``EXML_DATA``, to which nothing is ever added; else ``~/.cache/exml``, where downloads go."""
    named = os.environ.get("EXML_DATA")
    return Path(named).expanduser() if named else cache_folder()


def cache_folder() -> Path:
    """The folder ``exml`` in the user's cache: ``XDG_CACHE_HOME``, else ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exml"
