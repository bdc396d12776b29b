"""exml."""

from exml._registry import component

__all__ = ["component"]
