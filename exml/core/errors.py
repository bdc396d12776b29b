"""Every error that exml raises on purpose: what was expected, what was found, and the remedy."""

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
    """The base of all errors about the input; ``expected``, ``got`` and ``remedy`` are attributes.

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
        """Pickle without a call of the constructor, which takes only keywords."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class SettingError(ExmlError, ValueError):
    """A setting of a component is outside its range."""


class StrategyError(ExmlError):
    """A strategy cannot be built; :attr:`problems` lists everything that is missing or contradictory."""

    def __init__(self, problems: Sequence[str]) -> None:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            expected="a complete strategy", got=f"{len(problems)} problem(s)", remedy=f"fix each of them:{listed}"
        )
        self.problems = tuple(problems)


class ConfigError(ExmlError, ValueError):
    """YAML, JSON or plain data with a fault at :attr:`path`, such as ``generator.iterations``."""

    def __init__(self, path: str, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(expected=f"{expected} at {path or 'the root'}", got=got, remedy=remedy)
        self.path = path


class UnknownNameError(ExmlError, KeyError):
    """An unregistered scenario, strategy, architecture or kind of component."""

    __str__ = Exception.__str__


class ExpertError(ExmlError):
    """An expert contradicts its card (classes, output units, image shape), or cannot be loaded."""


class SuspectError(ExpertError):
    """An expert is probably broken or poisoned; see :mod:`exml.experts.screening`."""


class StreamError(ExmlError):
    """A stream has no experts, or is not the stream that the run started with."""


class ShapeError(ExmlError, ValueError):
    """Images, labels or logits of the wrong shape, type or range of class ids."""


class NonFiniteError(ExmlError, ArithmeticError):
    """NaN or infinity in weights, logits or a loss."""


class BufferSizeError(ExmlError, ValueError):
    """A buffer too small for its stream: an experience would add no image."""


class CheckpointError(ExmlError):
    """A checkpoint that is missing, truncated, or of another run; the file stays unchanged."""


class BaselineError(ExmlError):
    """A baseline that does not support these experts, such as a parameter average of two architectures."""


class DataError(ExmlError):
    """A dataset that is missing or not in the expected layout."""


class RankError(ExmlError):
    """Another rank of a distributed run died, hangs, or raised an error; it may have ``reported`` that itself."""

    def __init__(self, *, expected: str, got: str, remedy: str, reported: bool = False) -> None:
        super().__init__(expected=expected, got=got, remedy=remedy)
        self.reported = reported


class ExmlWarning(UserWarning):
    """Input that is probably wrong, but that exml accepts."""
