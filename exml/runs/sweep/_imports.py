"""Modules of the user's own, which register scenarios and components when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from exml.core.errors import ConfigError


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, and files by path; what was imported already is not imported again.

    Raises:
        ConfigError: one cannot be imported.
    """
    for place, name in enumerate(names):
        try:
            _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except Exception as error:  # whatever a module does when it is imported
            raise ConfigError(
                f"imports[{place}]",
                expected=f"the module {name} to be imported",
                got=f"{type(error).__name__}: {error}",
                remedy="correct the module or its name",
            ) from error


def _import_file(path: Path) -> None:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its own classes look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
