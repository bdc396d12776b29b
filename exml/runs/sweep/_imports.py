"""User modules that register scenarios and components when they are imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from exml.core.errors import ConfigError


def import_all(names: Sequence[str]) -> None:
    """Import modules by name, and files by path, unless they have been imported before.

    Raises:
        ConfigError: when an import fails.
    """
    for place, name in enumerate(names):
        try:
            _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
        except Exception as error:  # a module may raise anything
            raise ConfigError(
                f"imports[{place}]",
                expected=f"to import the module {name}",
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
    sys.modules[path.stem] = module  # pickle and attrs look for its classes there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
