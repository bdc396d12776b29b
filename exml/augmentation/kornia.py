"""Any image transformation of kornia as a component."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import attrs
import torch

from exml.core.errors import SettingError, ShapeError, nearest
from exml.core.registry import component
from exml.core.rng import global_seed
from exml.core.serialization import Settings
from exml.core.shapes import Images


@component
@attrs.frozen
class Kornia:
    """A transformation of ``kornia.augmentation``, by the name of its class and its arguments.

    Every image gets its own parameters (kornia's ``same_on_batch=False``). They are a function of the generator passed
    in; torch's global random state is restored after the call, which synchronizes with the device once. Most color
    transformations clamp to [0, 1], so they suit distillation, and not generation in the expert's normalized units.
    Raises a SettingError if kornia has no such class for images, or the class rejects the arguments.

    Args:
        name: of a class for batches of images, such as ``"RandomPerspective"``.
        arguments: of its constructor: numbers, strings and lists of them.

    >>> import torch
    >>> from exml.augmentation import Kornia
    >>> perspective = Kornia("RandomPerspective", {"distortion_scale": 0.3, "p": 1.0})
    >>> perspective(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 8, 8])
    """

    name: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict, converter=Settings)

    def __attrs_post_init__(self) -> None:
        _transformation(self)

    def __call__(self, images: Images, generator: torch.Generator, /) -> Images:
        """Transform every image by its own parameters; raises a ShapeError if their size does not fit or changes."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        try:
            with global_seed(seed):
                transformed = _transformation(self)(images)
        except Exception as error:
            expected = f"images that {self} can transform"
            remedy = "choose arguments for images of this shape"
            raise ShapeError(expected=expected, got=f"{tuple(images.shape)} ({error})", remedy=remedy) from error
        if transformed.shape != images.shape:
            raise ShapeError(
                expected=f"images {tuple(images.shape)} from {self}",
                got=str(tuple(transformed.shape)),
                remedy="choose arguments that keep the size of the images",
            )
        return transformed.to(images.dtype)


@lru_cache(maxsize=32)
def _transformation(settings: Kornia) -> Callable[[Images], Images]:
    from kornia import augmentation  # kornia is slow to import

    base = augmentation.AugmentationBase2D
    classes: dict[str, Callable[..., Any]] = {
        name: cls
        for name, cls in inspect.getmembers(augmentation, inspect.isclass)
        if issubclass(cls, base) and not name.endswith("Base2D")
    }
    if settings.name not in classes:
        raise SettingError(
            expected=f"a class of kornia.augmentation, such as {', '.join(nearest(settings.name, classes)[:5])}",
            got=repr(settings.name),
            remedy="correct the name",
        )
    cls = classes[settings.name]
    signature = inspect.signature(cls)
    tensors = {name for name, given in signature.parameters.items() if given.annotation in (torch.Tensor, "Tensor")}
    try:
        return cls(**{name: torch.tensor(v) if name in tensors else v for name, v in settings.arguments.items()})
    except Exception as error:
        raise SettingError(
            expected=f"the arguments {settings.name}{signature}".split(" ->")[0],
            got=f"{settings.arguments} ({error})",
            remedy="correct them",
        ) from error
