"""Arrays in a file of NumPy's, of which nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from exml.core.errors import DataError


def read_arrays(path: Path, names: tuple[str, ...], remedy: str) -> tuple[np.ndarray, ...]:
    """The arrays of these names.

    Raises:
        DataError: when the file is broken, or one of them is not in it.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    # NumPy fails where it stumbles; of a file with a single array it gives that, which has no names.
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        raise DataError(
            expected=f"{', '.join(names)} in {path}",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy=remedy,
        ) from error


def require(fits: bool, path: Path, expected: str, got: str, remedy: str) -> None:
    """Raise :class:`~exml.core.errors.DataError` unless what is in the file is what was expected."""
    if not fits:
        raise DataError(expected=f"{expected} in {path}", got=got, remedy=remedy)
