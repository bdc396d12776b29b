"""Names for classes, so that a strategy can be written to a file and read back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, overload

import attrs

from exml.core.errors import SettingError, UnknownNameError

ClassT = TypeVar("ClassT", bound=type[Any])
_KINDS: dict[str, type[Any]] = {}


def kind_of(cls: type[Any], /) -> str:
    """The name under which a component class was registered.

    >>> from exml.priors import L2Norm
    >>> kind_of(L2Norm)
    'l2-norm'
    """
    for kind, known in _KINDS.items():
        if known is cls:
            return kind
    raise UnknownNameError(
        expected="a registered component", got=cls.__name__, remedy="decorate the class with @exml.component"
    )


def class_of(kind: str, /) -> type[Any]:
    """The component class registered under a name.

    >>> class_of("l2-norm").__name__
    'L2Norm'
    """
    if kind not in _KINDS:
        raise UnknownNameError(
            expected=f"one of {', '.join(sorted(_KINDS))}",
            got=repr(kind),
            remedy="check the spelling, or import the module that defines it before reading the strategy",
        )
    return _KINDS[kind]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "-", name).lower()


@overload
def component(cls: ClassT, /) -> ClassT: ...
@overload
def component(*, kind: str) -> Callable[[ClassT], ClassT]: ...
def component(cls: Any = None, /, *, kind: str | None = None) -> Any:
    """Make a frozen attrs class a component: it serialises in a strategy under its kind.

    Args:
        kind: the name in files; by default the class name in kebab case.

    Raises:
        SettingError: if the class is not a frozen attrs class, or another class has this kind.

    >>> import attrs
    >>> @component
    ... @attrs.frozen
    ... class Sepia:
    ...     strength: float = 0.5
    >>> kind_of(Sepia)
    'sepia'
    """

    def register(cls: type[Any]) -> type[Any]:
        name = kind or _kebab(cls.__name__)
        if not attrs.has(cls) or cls.__setattr__ is object.__setattr__:
            raise SettingError(
                expected="a frozen attrs class", got=cls.__name__, remedy="put @attrs.frozen below @exml.component"
            )
        known = _KINDS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise SettingError(
                expected=f"a kind of its own for {cls.__qualname__}",
                got=f"{name!r}, which is {known.__module__}.{known.__qualname__}",
                remedy="name it with @exml.component(kind=...)",
            )
        _KINDS[name] = cls
        return cls

    return register if cls is None else register(cls)
