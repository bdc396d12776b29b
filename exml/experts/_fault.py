"""Errors about the files of an expert, which name the file."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from exml.core.errors import ExmlError, ExpertError


def fault(path: Path, error: Exception, expected: str, remedy: str) -> NoReturn:
    """Raise an error as an ExpertError that names the file."""
    if isinstance(error, ExmlError):
        raise ExpertError(expected=f"{error.expected} in {path}", got=error.got, remedy=error.remedy) from error
    got = " ".join(str(error).split())
    raise ExpertError(expected=f"{expected} in {path}", got=got, remedy=remedy) from error
