"""Modules of the user that register architectures, scenarios and components. Importing one executes its code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from exml.core.errors import ConfigError

_IMPORTED: list[str] = []


def import_all(names: Sequence[str], /, path: str = "imports") -> None:
    """Import modules by name, also from the current folder, and files by path, unless they have been imported before.

    Args:
        names: such as ``my_parts`` or ``parts/mine.py``.
        path: where the names are from, for errors.

    Raises:
        ConfigError: an import failed.
    """
    folder = str(Path.cwd())
    if names and folder not in sys.path:
        sys.path.append(folder)  # last: a file in it must not replace a module of the standard library
    for place, name in enumerate(names):
        if name.endswith(".py") and not Path(name).is_file():
            remedy = f"correct the path, which is relative to {folder}"
            raise ConfigError(f"{path}[{place}]", expected=f"the file {name}", got="no such file", remedy=remedy)
        try:
            _import_file(Path(name).resolve()) if name.endswith(".py") else importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a module may raise anything
            raise ConfigError(
                f"{path}[{place}]",
                expected=f"to import the module {name}",
                got=f"{type(error).__name__}: {error}",
                remedy="correct the module or its name",
            ) from error
        full = str(Path(name).resolve()) if name.endswith(".py") else name
        if full not in _IMPORTED:
            _IMPORTED.append(full)


def imported() -> tuple[str, ...]:
    """What :func:`import_all` has imported, for worker processes, which must import it too."""
    return tuple(_IMPORTED)


def _import_file(path: Path) -> None:
    if getattr(sys.modules.get(path.stem), "__file__", None) != str(path):
        sys.modules.pop(path.stem, None)
        importlib.invalidate_caches()
        sys.path.insert(0, str(path.parent))
        try:
            importlib.import_module(path.stem)
        finally:
            sys.path.remove(str(path.parent))
