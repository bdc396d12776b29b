"""Architectures by name, so that a card can say how to build the module that its weights fit."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from exml.core.errors import ExmlError, SettingError, UnknownNameError

FactoryT = TypeVar("FactoryT", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}
_RECORD = "_exml_architecture"


def names() -> tuple[str, ...]:
    """The registered architectures, sorted.

    >>> "lenet5" in names()
    True
    """
    return tuple(sorted(_FACTORIES))


def register(name: str, /) -> Callable[[FactoryT], FactoryT]:
    """Give a module class, or a function that makes a module, a name in cards.

    What it is called with is remembered in the module that it makes; so the arguments should be numbers, strings,
    lists, or modules of registered architectures themselves.

    Raises:
        SettingError: if something else has this name.

    >>> @register("perceptron")
    ... def perceptron(inputs: int, classes: int = 2) -> nn.Module:
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    >>> describe(perceptron(4))
    {'name': 'perceptron', 'settings': {'inputs': 4, 'classes': 2}}
    """

    def decorate(factory: FactoryT) -> FactoryT:
        known = _FACTORIES.get(name)
        if known is not None and _place(known) != _place(factory):
            raise SettingError(
                expected=f"a name of its own for {_place(factory)}",
                got=f"{name!r}, which is {_place(known)}",
                remedy="register it under another name",
            )
        signature = inspect.signature(factory)
        recording: Any = factory
        if isinstance(factory, type):
            _record_in_constructor(factory, name, signature)
        else:
            recording = _recording_function(factory, name, signature)
        _FACTORIES[name] = recording
        return recording

    return decorate


def build(name: str, /, **settings: Any) -> nn.Module:
    """Make a module of a registered architecture, with the weights that its constructor draws.

    Args:
        name: one of :func:`names`.
        settings: its constructor's arguments; a module among them may be given as its description.

    Raises:
        UnknownNameError: when nobody registered the name.
        SettingError: when a setting is unknown, missing or refused by the architecture.

    >>> type(build("conv-net", channels=1, classes=10, image_size=8)).__name__
    'ConvNet'
    """
    factory = _factory(name)
    signature = inspect.signature(factory)
    try:
        signature.bind(**settings)
        return factory(**{key: _built(value) for key, value in settings.items()})
    except ExmlError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingError(
            expected=f"settings {name}{signature}".split(" -> ")[0],
            got=f"{settings} ({error})",
            remedy="correct the architecture's settings",
        ) from error


def settings(name: str, /) -> tuple[str, ...]:
    """What an architecture may be told, by the names that :func:`build` takes.

    Raises:
        UnknownNameError: when nobody registered the name.

    >>> settings("lenet5")
    ('channels', 'classes', 'image_size')
    """
    return tuple(inspect.signature(_factory(name)).parameters)


def describe(module: nn.Module, /) -> dict[str, Any]:
    """The name and settings with which :func:`build` makes another module like this one, ready for JSON.

    Raises:
        UnknownNameError: when the module was not made by a registered architecture.
        SettingError: when it was made with a setting that JSON does not have.

    >>> describe(build("lenet5", classes=2))
    {'name': 'lenet5', 'settings': {'channels': 1, 'classes': 2, 'image_size': 32}}
    """
    record = getattr(module, _RECORD, None)
    if record is None:
        raise UnknownNameError(
            expected="a module of a registered architecture",
            got=type(module).__name__,
            remedy="put @exml.models.register(name) on its class, or on a function that makes it, and make it anew",
        )
    name, settings = record
    return {"name": name, "settings": {key: _plain(value) for key, value in settings.items()}}


def _factory(name: str) -> Callable[..., nn.Module]:
    if name not in _FACTORIES:
        raise UnknownNameError(
            expected=f"one of {', '.join(names())}",
            got=repr(name),
            remedy="check the spelling, or import the module that registers it with exml.models.register",
        )
    return _FACTORIES[name]


def _record_in_constructor(cls: Any, name: str, signature: inspect.Signature) -> None:
    construct = cls.__init__

    @functools.wraps(construct)
    def construct_and_record(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if type(self) is cls:  # a subclass is another architecture
            _record(self, name, signature, args, kwargs)

    cls.__init__ = construct_and_record


def _recording_function(factory: Callable[..., nn.Module], name: str, signature: inspect.Signature) -> Any:
    @functools.wraps(factory)
    def make_and_record(*args: Any, **kwargs: Any) -> nn.Module:
        module = factory(*args, **kwargs)
        _record(module, name, signature, args, kwargs)
        return module

    return make_and_record


def _record(
    module: nn.Module, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    settings = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            settings.update(settings.pop(parameter.name))
    setattr(module, _RECORD, (name, settings))


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SettingError(
        expected="settings that JSON has: numbers, strings, lists, or modules of registered architectures",
        got=repr(value),
        remedy="register a function with plain arguments that makes the module",
    )


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"name", "settings"}:
        return build(value["name"], **value["settings"])
    return value


def _place(factory: Callable[..., nn.Module]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"
