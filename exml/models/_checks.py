"""What the architectures of this folder ask of their settings."""

from __future__ import annotations

from exml.core.errors import SettingError


def require_positive_ints(owner: str, /, **settings: int) -> None:
    """Raise :class:`~exml.core.errors.SettingError` for the first setting that is not an integer from 1."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingError(
                expected=f"an integer >= 1 for {owner}.{name}", got=repr(value), remedy=f"set {name} within it"
            )
