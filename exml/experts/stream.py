"""Streams of experts, one in memory at a time."""

from __future__ import annotations


class ExpertStream:
    """A stream of experts."""
