"""Errors that name the file of an expert."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from exml.core.errors import ExmlError, ExpertError


def fault(path: Path, error: Exception, expected: str, remedy: str) -> NoReturn:
    """Raise an error again, as an ExpertError that names the file."""
    if isinstance(error, ExmlError):
        raise ExpertError(expected=f"{error.expected} in {path}", got=error.got, remedy=error.remedy) from error
    got = " ".join(str(error).split())
    raise ExpertError(expected=f"{expected} in {path}", got=got, remedy=remedy) from error
