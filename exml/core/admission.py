"""Checks of a module that somebody else made, before any work: its weights, its outputs, and what they mean."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from exml.core.errors import ExmlError, ExpertError, NonFiniteError, warn
from exml.core.shapes import Images

_TOLERANCE = 1e-2  # of the largest logit: above the rounding of another algorithm, far below the effect of dropout
_FAR = 1000.0  # the scale of noise that drives logits, but not probabilities, out of [0, 1]
_MANY = 8  # so many logits are hardly ever all in [0, 1]; fewer may be, unless some are near 0 or 1
_SATURATED, _VARIED = 0.02, 0.1
_DAMAGED = "leave this expert out of the stream, or get an undamaged copy"
_UNUSABLE: tuple[tuple[Callable[[Tensor], bool], str, str], ...] = (
    (is_lazy, "is uninitialized", "run a forward pass, which initializes lazy layers, and train the module"),
    (lambda tensor: tensor.is_meta, "is on the meta device", "build the module in memory and load its weights"),
    (lambda tensor: tensor.is_quantized, "is quantized", "use the module as it was before quantization"),
    (lambda tensor: tensor.layout != torch.strided, "is sparse", "convert the weights with to_dense()"),
    (lambda tensor: tensor.is_inference(), "is an inference tensor", "load the module outside torch.inference_mode()"),
)


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Evaluation mode inside the block; every part of the module gets its own mode back afterwards.

    Buffers that a forward pass changes even in evaluation mode, such as running statistics, get their values back.

    >>> import torch
    >>> from exml.core.admission import evaluation_mode
    >>> layer = torch.nn.Dropout()
    >>> with evaluation_mode(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    modes = [(part, part.training) for part in module.modules() if hasattr(part, "training")]  # not a frozen script
    values = [buffer for buffer in module.buffers() if not (is_lazy(buffer) or buffer.is_meta or buffer.is_inference())]
    buffers = [(buffer, buffer.clone()) for buffer in values]
    try:
        if any(mode for _, mode in modes):
            module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.data.copy_(before)  # a backward pass may follow


@contextmanager
def guarded(module: nn.Module, expected: str, remedy: str, kind: type[ExmlError] = ExpertError) -> Generator[None]:
    """Turn whatever a stranger's module raises inside the block into one error of a ``kind``.

    >>> import torch
    >>> from exml.core.admission import guarded
    >>> with guarded(torch.nn.Identity(), "a forward pass of expert 'a'", "correct its card"):
    ...     raise KeyError("size")
    Traceback (most recent call last):
    exml.core.errors.ExpertError: expected a forward pass of expert 'a', got KeyError: 'size'; remedy: correct its card
    """
    try:
        yield
    except ExmlError as error:
        raise kind(expected=f"{expected}: {error.expected}", got=error.got, remedy=error.remedy) from error
    except (Exception, SystemExit) as error:  # a module may raise anything, and must not end the program
        got = "".join(traceback.format_exception_only(error)).strip().splitlines()[0][:300]
        types = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} - {torch.float32}
        if types:
            got, remedy = f"{got} (it has weights of {types.pop()})", "convert it to float32 with module.float()"
        raise kind(expected=expected, got=got, remedy=remedy) from error


def raised_in_module(error: BaseException) -> bool:
    """Whether an error that is not one of exml comes from the forward pass of a module."""
    frames = traceback.walk_tb(error.__traceback__)
    inside = any(isinstance(frame.f_locals.get("self"), nn.Module) for frame, _ in frames)
    return inside and isinstance(error, Exception | SystemExit) and not isinstance(error, ExmlError)


def check_weights(module: nn.Module, owner: str, kind: type[ExmlError] = ExpertError, remedy: str = _DAMAGED) -> None:
    """Check that all weights are dense, initialized, finite and in memory; what is not a tensor is skipped."""
    with guarded(module, f"weights of {owner} that can be read", "save and load the module again", kind):
        named: dict[str, object] = {**module.state_dict(), **dict(module.named_parameters(remove_duplicate=False))}
        named.update(module.named_buffers(remove_duplicate=False))
        tensors = [
            (name, tensor)
            for name, value in named.items()
            for tensor in (value if isinstance(value, tuple) else (value,))  # packed weights are tuples
            if isinstance(tensor, Tensor)
        ]
        checks = ((name, what, cure) for name, tensor in tensors for bad, what, cure in _UNUSABLE if bad(tensor))
        fault = next(checks, None)
        broken = None if fault else next((name for name, tensor in tensors if not bool(tensor.isfinite().all())), None)
    if fault is not None:
        name, what, cure = fault
        raise kind(expected=f"weights of {owner} in memory, dense and trainable", got=f"{name} {what}", remedy=cure)
    if broken is not None:
        raise NonFiniteError(expected=f"finite weights in {owner}", got=f"NaN or infinity in {broken}", remedy=remedy)


def check_outputs(forward: Callable[[Images], Tensor], images: Images, far: Images, units: int, owner: str) -> None:
    """Check forward passes of several images in pixel units: as a batch, once more, and one by one.

    Logits that are not ``(batch, units)``, float32 and finite raise an error. Those that differ between calls, depend
    on the rest of the batch, or look like probabilities even for the ``far`` images, cause a warning.
    """

    def checked(batch: Images) -> Tensor:
        logits, wanted = forward(batch), (len(batch), units)
        remedy = "correct outputs on its card: one class id (or None) per output unit"
        if logits.ndim != 2:
            remedy = "keep the dimension of the batch and flatten all others, logits.flatten(1)"
        elif logits.dtype != torch.float32:
            remedy = "return logits.float()"
        if logits.shape != wanted or logits.dtype != torch.float32:
            got = f"{tuple(logits.shape)} {logits.dtype}"
            raise ExpertError(expected=f"float32 logits {wanted} as its card says ({owner})", got=got, remedy=remedy)
        if not bool(logits.isfinite().all()):
            got = "NaN or infinity for a black image or for noise"
            raise NonFiniteError(expected=f"finite logits ({owner})", got=got, remedy=_DAMAGED)
        return logits

    logits, again = checked(images), checked(images)
    alone = torch.cat([checked(image) for image in images.split(1)])
    allowed = _TOLERANCE * logits.abs().max()
    for other, got in ((again, "other logits at every call"), (alone, "logits that depend on the rest of the batch")):
        if bool((other - logits).abs().max() > allowed):
            remedy = "remove dropout or batch statistics that are active in evaluation mode"
            warn(f"logits that depend on the image alone ({owner})", got, remedy, stacklevel=3)
            break
    try:
        logits = torch.cat((logits, checked(far)))
    except ExmlError:  # a sound module may refuse such images
        far = far[:0]
    inside = units > 1 and bool(((logits >= 0) & (logits <= 1)).all())
    saturated = bool(((logits < _SATURATED) | (logits > 1 - _SATURATED)).any())
    varied = bool((logits.amax(0) - logits.amin(0) > _VARIED).any())  # an untrained module may return constants
    positive = units >= _MANY and bool((logits[: len(images)] > 0).all())
    bounded = len(far) > 0 and (positive or (saturated and varied))
    shares = bool(((logits.sum(1) - 1).abs() < 1e-3).all()) and bool((logits != logits[:1]).any())
    if inside and (bounded or shares):
        remedy = "remove its last softmax or sigmoid, or take their log"
        warn(f"logits ({owner})", "what look like probabilities", remedy, stacklevel=3)


def check_gradient(module: nn.Module, forward: Callable[[Images], Tensor], images: Images, owner: str) -> None:
    """Check that the logits have a finite gradient with respect to the pixels that is not 0 everywhere."""
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.clone().requires_grad_()
        logits = forward(pixels)
        gradient = None
        if logits.requires_grad:
            # All weights differ: the sum of a softmax has no gradient.
            weights = torch.arange(1, 1 + logits.numel(), device=logits.device).view_as(logits)
            remedy = "replace its operations that cannot be differentiated, or use a generator without gradients"
            with guarded(module, f"a backward pass of {owner}", remedy):
                (gradient,) = torch.autograd.grad((weights * logits).sum(), pixels, allow_unused=True)
    expected = f"a finite gradient of the logits with respect to the pixels, which the generator optimizes ({owner})"
    remedy = "choose drawings, such as exml.generators.ProceduralImages, or a differentiable module"
    if gradient is None or not bool(gradient.any()):
        raise ExpertError(expected=expected, got="none" if gradient is None else "0 for every pixel", remedy=remedy)
    if not bool(gradient.isfinite().all()):
        raise NonFiniteError(expected=expected, got="NaN or infinity", remedy=remedy)
