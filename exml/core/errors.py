"""Every error that exml raises on purpose: what was expected, what was found, and the remedy."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Any

LONGEST = 1_000
"""Maximum length of a message in characters."""
_BACKTRACE = re.compile(r"\n(?:Exception raised from |C\+\+ CapturedTraceback|frame #0)")


def nearest(name: str, names: Iterable[str], /) -> list[str]:
    """Names sorted by their similarity to ``name``, the most similar first.

    >>> from exml.core.errors import nearest
    >>> nearest("gausian-noise", ["mixture", "model-inversion", "gaussian-noise"])
    ['gaussian-noise', 'model-inversion', 'mixture']
    """
    return sorted(names, key=lambda known: (-SequenceMatcher(None, name.lower(), known.lower()).ratio(), known))


def did_you_mean(name: str, names: Collection[str], otherwise: str, /) -> str:
    """The remedy for an unknown name: the name that was probably meant, or ``otherwise`` if none is similar.

    >>> from exml.core.errors import did_you_mean
    >>> did_you_mean("gausian-noise", ["mixture", "gaussian-noise"], "check the spelling")
    "did you mean 'gaussian-noise'? If not, check the spelling"
    >>> did_you_mean("dreams", ["mixture", "gaussian-noise"], "check the spelling")
    'check the spelling'
    """
    spelled = {known.lower(): known for known in names}
    close = get_close_matches(name.lower(), spelled, n=1)
    return f"did you mean {spelled[close[0]]!r}? If not, {otherwise}" if close else otherwise


def printable(text: str, /) -> str:
    r"""One line of printable text: whitespace becomes single spaces, other control characters become escapes.

    The C++ backtrace that PyTorch appends to some messages is removed.

    >>> from exml.core.errors import printable
    >>> printable("a\n\tb \x1b[31m")
    'a b \\x1b[31m'
    """
    text = " ".join(_BACKTRACE.split(text, maxsplit=1)[0].split())
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shortened(text: str, length: int, /) -> str:
    """Text of at most ``length`` characters; what is left out in the middle becomes ``" ... "``.

    >>> from exml.core.errors import shortened
    >>> shortened("0123456789", 9)
    '01 ... 89'
    """
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


class ExmlError(Exception):
    """The base of all errors about the input; ``expected``, ``got`` and ``remedy`` are attributes.

    The message is one line of printable text with at most 1,000 characters; longer parts are shortened in the middle.

    >>> from exml.core.errors import ExmlError
    >>> raise ExmlError(expected="3 channels", got="1", remedy="repeat the gray channel")
    Traceback (most recent call last):
    exml.core.errors.ExmlError: expected 3 channels, got 1; remedy: repeat the gray channel
    """

    def __init__(self, *, expected: str, got: str, remedy: str) -> None:
        parts = {"expected": printable(expected), "got": printable(got), "remedy": printable(remedy)}
        room = LONGEST - len("expected , got ; remedy: ")
        for rest, (name, text) in zip((3, 2, 1), sorted(parts.items(), key=lambda part: len(part[1])), strict=True):
            parts[name] = shortened(text, room // rest)
            room -= len(parts[name])
        self.expected, self.got, self.remedy = parts["expected"], parts["got"], parts["remedy"]
        super().__init__(f"expected {self.expected}, got {self.got}; remedy: {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without a call of the constructor, which takes only keywords."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class SettingError(ExmlError, ValueError):
    """A setting of a component is outside its range."""


class ListedError(ExmlError):
    """An error that lists everything that is wrong at once, as :attr:`problems`."""

    _sound: str

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(shortened(printable(problem), LONGEST // 2) for problem in problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(expected=self._sound, got=f"{len(problems)} problem(s)", remedy=f"fix each of them:{listed}")
        self.args = (f"expected {self.expected}, got {self.got}; remedy: fix each of them:{listed}",)


class StrategyError(ListedError):
    """A strategy cannot be built; :attr:`problems` lists everything that is missing or contradictory."""

    _sound = "a complete strategy"


class PlanError(ListedError):
    """A label plan contradicts itself or its experts; :attr:`problems` lists every contradiction."""

    _sound = "a label plan that fits its experts"


class ConfigError(ExmlError, ValueError):
    """YAML, JSON or plain data with a fault at :attr:`path`, such as ``generator.iterations``."""

    def __init__(self, path: str, *, expected: str, got: str, remedy: str) -> None:
        super().__init__(expected=f"{expected} at {path}" if path else expected, got=got, remedy=remedy)
        self.path = path


class UnknownNameError(ExmlError, KeyError):
    """An unregistered scenario, strategy, architecture or kind of component."""

    __str__ = Exception.__str__


class ExpertError(ExmlError):
    """An expert contradicts its card (classes, output units, image shape), or cannot be loaded."""


class SuspectError(ExpertError):
    """An expert is probably broken or poisoned; see :class:`exml.experts.Screening`."""


class FolderError(ListedError, ExpertError):
    """Experts cannot be read; :attr:`problems` lists all of them."""

    _sound = "experts that can be read"


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
    """Input that is probably wrong, but that exml accepts; the message has the form of an error's."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(message), LONGEST))


def warn(expected: str, got: str, remedy: str, /, *, stacklevel: int = 2) -> None:
    """Issue an :class:`ExmlWarning` that is worded like an error; ``stacklevel`` as in :func:`warnings.warn`."""
    warnings.warn(f"expected {expected}, got {got}; remedy: {remedy}", ExmlWarning, stacklevel=stacklevel + 1)
