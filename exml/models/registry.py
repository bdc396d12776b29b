"""Architectures by name, for cards."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from exml.core.errors import ExmlError, SettingError, UnknownNameError, did_you_mean, nearest

FactoryT = TypeVar("FactoryT", bound=Callable[..., nn.Module])
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}
LIBRARIES: dict[str, Callable[[str], Callable[..., nn.Module]]] = {}
"""By the prefix of a library, a function from the names of its models to functions that return them."""
_RECORD = "_exml_architecture"
_ALIASES = {"num_classes": "classes", "in_chans": "channels", "img_size": "image_size"}
LARGEST, MOST = 2**31, 20_000
"""Limits of a sketched architecture: elements in its parameters and buffers, and number of these."""


def names() -> tuple[str, ...]:
    """The names of the registered architectures, sorted; ``torchvision/NAME`` stands for all of a library."""
    return tuple(sorted([*_FACTORIES, *(f"{library}/NAME" for library in LIBRARIES)]))


def register(name: str, /) -> Callable[[FactoryT], FactoryT]:
    """Register a module class, or a function that returns a module, under a name that no other architecture has.

    Each module records its arguments: numbers, strings, lists, or modules of registered architectures.

    >>> import torch
    >>> from exml.models import describe, register
    >>> @register("perceptron")
    ... def perceptron(inputs: int, classes: int = 2) -> torch.nn.Module:
    ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))
    >>> describe(perceptron(4))
    {'name': 'perceptron', 'settings': {'inputs': 4, 'classes': 2}}
    """

    def decorate(factory: FactoryT) -> FactoryT:
        known = _FACTORIES.get(name)
        if known is not None and _place(known) != _place(factory):
            expected = f"an unused name for {_place(factory)}"
            remedy = "register it under another name"
            raise SettingError(expected=expected, got=f"{name!r}, which is {_place(known)}", remedy=remedy)
        _FACTORIES[name] = recording = _recording(factory, name)
        return recording

    return decorate


def build(name: str, /, **settings: Any) -> nn.Module:
    """Construct a module of a registered architecture, randomly initialized.

    The settings are the arguments of its constructor; a module may be given as its :func:`describe`. An unknown name
    raises an UnknownNameError; a setting that is unknown, missing or rejected raises a SettingError.

    >>> from exml.models import build
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
    except Exception as error:  # a constructor may raise anything for settings that it does not expect
        expected = f"settings {name}{signature}".split(" -> ")[0]
        remedy = "correct the architecture's settings"
        raise SettingError(expected=expected, got=f"{settings} ({error})", remedy=remedy) from error


def sketch(name: str, /, **settings: Any) -> nn.Module | None:
    """:func:`build` on the device ``meta``, without memory; None if the constructor reads values of its tensors.

    Raises:
        SettingError: as for :func:`build`, or parameters and buffers of more than 2**31 elements in total.
        UnknownNameError: an unknown name.

    >>> from exml.models import sketch
    >>> next(sketch("lenet5", classes=2).parameters()).device
    device(type='meta')
    >>> sketch("lenet5", image_size=10**6)
    Traceback (most recent call last):
    exml.core.errors.SettingError: expected an architecture of at most 2147483648 elements ...
    """
    try:
        with torch.device("meta"), bounded(name):
            return build(name, **settings)
    except SettingError as error:
        if "meta" in str(error.__cause__):  # torch's errors about values on this device
            return None
        raise


@contextmanager
def bounded(name: str, /) -> Generator[None]:
    """Within the block, refuse modules of this thread that become too large, with a SettingError."""
    thread, elements, count = get_ident(), 0, 0

    def check(_module: nn.Module, _name: str, part: Tensor | nn.Module | None) -> None:
        nonlocal elements, count
        if part is None or get_ident() != thread:
            return
        count, elements = count + 1, elements + (part.numel() if isinstance(part, Tensor) else 0)
        if elements > LARGEST or count > MOST:
            expected = f"an architecture of at most {LARGEST} elements in {MOST} tensors and modules"
            raise SettingError(
                expected=expected, got=f"a larger {name!r}", remedy="correct the architecture's settings"
            )

    handles = [
        registration.register_module_parameter_registration_hook(check),
        registration.register_module_buffer_registration_hook(check),
        registration.register_module_module_registration_hook(check),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def settings(name: str, /) -> tuple[str, ...]:
    """The names of the settings of a registered architecture.

    >>> from exml.models import settings
    >>> settings("lenet5")
    ('channels', 'classes', 'image_size')
    """
    parameters = inspect.signature(_factory(name)).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)


def filled(name: str, given: Mapping[str, Any], classes: int, image_shape: Sequence[int], /) -> dict[str, Any]:
    """Settings of an architecture for a number of outputs and an image shape; those that are given stay as they are.

    ``num_classes``, ``in_chans`` and ``img_size`` are other names of ``classes``, ``channels`` and ``image_size``.

    >>> from exml.models import filled
    >>> filled("lenet5", {"num_classes": 4}, 10, (1, 28, 28))
    {'channels': 1, 'classes': 4, 'image_size': 28}
    """
    channels, height, width = image_shape
    known = {"channels": channels, "classes": classes, **({"image_size": height} if height == width else {})}
    takes = settings(name)
    given = {_ALIASES[key] if key in _ALIASES and key not in takes else key: value for key, value in given.items()}
    return {key: value for key, value in known.items() if key in takes} | given


def describe(module: nn.Module, /) -> dict[str, Any]:
    """The arguments of :func:`build` for another module like this one, which must be registered, as data for JSON.

    >>> from exml.models import build, describe
    >>> describe(build("lenet5", classes=2))
    {'name': 'lenet5', 'settings': {'channels': 1, 'classes': 2, 'image_size': 32}}
    """
    record = getattr(module, _RECORD, None)
    if record is None:
        expected = "a module of a registered architecture"
        remedy = "decorate its class, or a function that returns it, with @exml.models.register(name)"
        raise UnknownNameError(expected=expected, got=type(module).__name__, remedy=remedy)
    name, settings = record
    return {"name": name, "settings": {key: _plain(value) for key, value in settings.items()}}


def amend(module: nn.Module, layer: nn.Module, before: int, now: int, /) -> None:
    """Correct the records of a module, and of its parts, after a ``layer`` in it has changed its number of outputs.

    In the settings of each part that :func:`build` would make otherwise, the number that makes it fit is replaced.

    Raises:
        SettingError: no setting is the number of outputs; the records are then unchanged.

    :meta private:
    """
    parts = [
        part for part in module.modules() if hasattr(part, _RECORD) and any(layer is own for own in part.modules())
    ]
    records = [(part, getattr(part, _RECORD)) for part in reversed(parts)]
    for part, (name, settings) in records:  # the inner ones first, which the outer ones may contain
        choices = [settings, *_replaced(settings, before, now)]
        fitting = next((choice for choice in choices if _fits(part, name, choice)), None)
        if fitting is None:
            for changed, record in records:
                setattr(changed, _RECORD, record)
            expected = f"a setting of {name!r} for the number of outputs, {before}"
            remedy = "register the architecture with such a setting, or give the student enough outputs"
            raise SettingError(expected=expected, got=str(dict(settings)), remedy=remedy)
        setattr(part, _RECORD, (name, fitting))


def _fits(module: nn.Module, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether these settings give a module with tensors of the same names and shapes."""
    given = {key: _plain(value) for key, value in settings.items()}
    try:
        made = sketch(name, **given)
        if made is None:
            with torch.random.fork_rng(devices=[]):
                made = build(name, **given)
    except ExmlError:
        return False
    shapes = [
        {key: getattr(value, "shape", None) for key, value in each.state_dict().items()} for each in (made, module)
    ]
    return shapes[0] == shapes[1]


def _replaced(value: Any, before: int, now: int) -> Iterator[Any]:
    """Copies of some settings, in each of which one number is replaced."""
    if isinstance(value, Mapping):
        yield from ({**value, key: new} for key, part in value.items() for new in _replaced(part, before, now))
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            for new in _replaced(part, before, now):
                yield type(value)((*value[:place], new, *value[place + 1 :]))
    elif type(value) is int and value == before:
        yield now


def _factory(name: str) -> Callable[..., nn.Module]:
    library, slash, model = name.partition("/")
    if slash and library in LIBRARIES:
        return _recording(LIBRARIES[library](model), name)
    if name not in _FACTORIES:
        otherwise = "check the spelling, or import the module that registers it with exml.models.register"
        remedy = did_you_mean(name, names(), otherwise)
        raise UnknownNameError(expected=f"one of {', '.join(nearest(name, names()))}", got=repr(name), remedy=remedy)
    return _FACTORIES[name]


def _recording(factory: Any, name: str) -> Any:
    """Make a factory record its arguments in every module that it makes; changes a class in place."""
    is_class, signature = isinstance(factory, type), inspect.signature(factory)
    make = factory.__init__ if is_class else factory

    @functools.wraps(make)
    def make_and_record(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        module, given = (args[0], args[1:]) if is_class else (made, args)
        if not is_class or type(module) is factory:  # a subclass is another architecture
            bound = signature.bind(*given, **kwargs)
            bound.apply_defaults()
            settings = {**dict(zip(signature.parameters, bound.args, strict=False)), **bound.kwargs}
            setattr(module, _RECORD, (name, settings))
        return made

    if not is_class:
        return make_and_record
    factory.__init__ = make_and_record
    return factory


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    expected = "settings for JSON: numbers, strings, lists, or modules of registered architectures"
    remedy = "register a function that returns the module from such arguments"
    raise SettingError(expected=expected, got=repr(value), remedy=remedy)


def _built(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"name", "settings"}:
        return build(value["name"], **value["settings"])
    return value


def _place(factory: Callable[..., nn.Module]) -> str:
    return f"{factory.__module__}.{factory.__qualname__}"
