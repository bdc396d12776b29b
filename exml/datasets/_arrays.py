"""Arrays from ``.npz`` files, without unpickling."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from exml.core.errors import DataError


def read_arrays(path: Path, names: tuple[str, ...], remedy: str) -> tuple[np.ndarray, ...]:
    """Read the arrays of these names.

    Raises:
        DataError: when the file is broken, or an array is missing.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    # NumPy has no error of its own, and loads a file with a single array as that array.
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        raise DataError(
            expected=f"{', '.join(names)} in {path}",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy=remedy,
        ) from error


def require(fits: bool, path: Path, expected: str, got: str, remedy: str) -> None:
    """Raise :class:`~exml.core.errors.DataError` unless the file has the expected content."""
    if not fits:
        raise DataError(expected=f"{expected} in {path}", got=got, remedy=remedy)
