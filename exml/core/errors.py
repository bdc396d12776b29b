"""Every error that exml raises on purpose: what was expected, what was found, and the remedy.

All of them derive from :class:`ExmlError`, so ``except exml.core.errors.ExmlError`` catches mistakes in the input and
no bugs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any


def nearest(name: str, names: Iterable[str], /) -> list[str]:
    """Names sorted by their similarity to ``name``, the most similar first.

    >>> nearest("gausian-noise", ["mixture", "model-inversion", "gaussian-noise"])
    ['gaussian-noise', 'model-inversion', 'mixture']
    """
    return sorted(names, key=lambda known: (-SequenceMatcher(None, name.lower(), known.lower()).ratio(), known))


class ExmlError(Exception):
    """Bad input, found before it does harm.

    Args:
        expected: what would have been right.
        got: what was found instead.
        remedy: what to do about it, as a sentence without its period.

    >>> raise ExmlError(expected="3 channels", got="1", remedy="repeat the gray channel")
    Traceback (most recent call last):
    exml.core.errors.ExmlError: expected 3 channels, got 1; remedy: repeat the gray channel
    """

    def __init__(self, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, got {got}; remedy: {remedy}")
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes; pickle would call the constructor without its keywords."""
        return _restored, (type(self), self.args, self.__dict__)


class SettingError(ExmlError, ValueError):
    """A setting of a component is outside its range."""


class StrategyError(ExmlError):
    """A strategy cannot be built; :attr:`problems` lists everything that is missing or contradictory.

    Args:
        problems: one sentence each, with its remedy.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            expected="a complete strategy", got=f"{len(problems)} problem(s)", remedy=f"fix each of them:{listed}"
        )
        self.problems = tuple(problems)


class ConfigError(ExmlError, ValueError):
    """YAML, JSON or plain data do not describe a strategy; :attr:`path` names the place.

    Args:
        path: keys from the root to the fault, such as ``generator.iterations``.
        expected: what would have been right.
        got: what was found instead.
        remedy: what to do about it.
    """

    def __init__(self, path: str, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(expected=f"{expected} at {path or 'the root'}", got=got, remedy=remedy)
        self.path = path


class UnknownNameError(ExmlError, KeyError):
    """The name of a scenario, a strategy, a model or a kind of component that is not registered."""

    __str__ = Exception.__str__


class ExpertError(ExmlError):
    """An expert contradicts its card (classes, output units, image shape), or cannot be loaded."""


class StreamError(ExmlError):
    """A stream has no experts, or is not the stream that the run started with."""


class ShapeError(ExmlError, ValueError):
    """Images, labels or logits of the wrong shape, type or range of class ids."""


class NonFiniteError(ExmlError, ArithmeticError):
    """NaN or infinity in weights, logits or a loss."""


class BufferSizeError(ExmlError, ValueError):
    """A buffer too small for its stream: the share of an experience would be no image."""


class CheckpointError(ExmlError):
    """A checkpoint that is absent, truncated, or of another run; the file itself is left unchanged."""


class BaselineError(ExmlError):
    """A baseline that these experts do not allow, such as averaging the parameters of two architectures."""


class DataError(ExmlError):
    """A dataset that is absent or not in the expected layout."""


class RankError(ExmlError):
    """Another rank of a distributed run died, hangs, or raised an error.

    Args:
        expected: what would have been right.
        got: what was found instead.
        remedy: what to do about it.
        reported: whether another rank has reported it already.
    """

    def __init__(self, *, expected: str, got: str, remedy: str, reported: bool = False) -> None:
        super().__init__(expected=expected, got=got, remedy=remedy)
        self.reported = reported


def _restored(cls: type[ExmlError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> ExmlError:
    error = cls.__new__(cls, *arguments)
    error.__dict__.update(fields)
    return error
