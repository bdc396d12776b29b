"""Packages that only some users need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from exml.core.errors import SettingError


def import_extra(package: str, extra: str, /) -> Any:
    """Import a package of an extra of exml; a SettingError names the command that installs it.

    >>> from exml.core.extras import import_extra
    >>> import_extra("nonesuch", "hf")
    Traceback (most recent call last):
    exml.core.errors.SettingError: expected the package nonesuch, got No module named 'nonesuch'; remedy: \
pip install "exml[hf]"
    """
    try:
        return import_module(package)
    except ImportError as error:
        remedy = f'pip install "exml[{extra}]"'
        raise SettingError(expected=f"the package {package}", got=str(error), remedy=remedy) from error
