"""Architectures of other libraries by name, without their weights: ``torchvision/NAME`` and ``timm/NAME``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from exml.core.errors import SettingError, UnknownNameError, did_you_mean, nearest
from exml.core.extras import import_extra
from exml.models.registry import LIBRARIES

_LOADING = "weights progress checkpoint_path cache_dir features_only scriptable exportable no_jit"


def torchvision_model(name: str, /) -> Callable[..., nn.Module]:
    """A function that returns a classification model of torchvision; raises UnknownNameError if it has none.

    For images with other than 3 ``channels``, the first convolution is another one. Other settings are those of
    torchvision's constructor.
    """
    from torchvision import models  # torchvision is slow to import

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)

    def make(classes: int = 1000, channels: int = 3, **settings: Any) -> nn.Module:
        _require_architecture(settings)
        if name in ("googlenet", "inception_v3"):
            settings = {"init_weights": True, **settings}
        module = models.get_model(name, weights=None, num_classes=classes, **settings)
        if channels != 3:
            _set_channels(module, channels)
        return module

    def make_for_size(image_size: int = 224, classes: int = 1000, channels: int = 3, **settings: Any) -> nn.Module:
        return make(classes, channels, image_size=image_size, **settings)

    return make_for_size if name.startswith("vit") else make


def timm_model(name: str, /) -> Callable[..., nn.Module]:
    """A function that returns a model of timm, with random weights: nothing is downloaded.

    Raises:
        SettingError: timm is not installed.
        UnknownNameError: timm has no such model.
    """
    timm = import_extra("timm", "timm")
    base = name.partition(".")[0]
    if "/" in name or ":" in name or not timm.is_model(base):
        raise _unknown("timm", name, timm.list_models())

    def make(classes: int = 1000, channels: int = 3, **settings: Any) -> nn.Module:
        _require_architecture(settings)
        return timm.create_model(base, pretrained=False, num_classes=classes, in_chans=channels, **settings)

    def make_for_size(image_size: int, classes: int = 1000, channels: int = 3, **settings: Any) -> nn.Module:
        return make(classes, channels, img_size=image_size, **settings)

    default = timm.get_pretrained_cfg(base)
    return make_for_size if default is not None and default.fixed_input_size else make


LIBRARIES.update(torchvision=torchvision_model, timm=timm_model)


def _require_architecture(settings: Mapping[str, Any]) -> None:
    """Refuse settings of a library's constructor that load weights, or that make something else of the model."""
    for name in settings:
        if name in _LOADING.split() or name.startswith("pretrained"):
            remedy = "remove it: weights come from the file of the expert"
            raise SettingError(expected="settings of the architecture alone", got=repr(name), remedy=remedy)


def _unknown(library: str, name: str, known: Sequence[str]) -> UnknownNameError:
    listed = ", ".join(nearest(name, known)[:5])
    expected, remedy = f"a classification model of {library}, such as {listed}", "check the spelling"
    return UnknownNameError(expected=expected, got=repr(name), remedy=did_you_mean(name, known, remedy))


def _set_channels(module: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for images with another number of channels."""
    name, first = next((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
    made = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # pyright: ignore[reportArgumentType]
        first.stride,  # pyright: ignore[reportArgumentType]
        first.padding,  # pyright: ignore[reportArgumentType]
        bias=first.bias is not None,
    )
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, made)
