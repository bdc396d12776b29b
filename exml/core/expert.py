"""One expert f_i^S of the stream (Sec. 2): a trained classifier and its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.errors import ExmlError, ExpertError, NonFiniteError
from exml.core.shapes import ClassMask, Images, Labels
from exml.core.targets import TeacherLogits

_DAMAGED = "leave this expert out of the stream, or get an undamaged copy"


def _tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values.tolist() if isinstance(values, Tensor) else values)


@attrs.frozen(eq=False, slots=False)
class Expert:
    """A trained classifier, the global ids of the classes it knows, and the normalization of its images.

    Ids that repeat or are negative, and a class without an output unit, raise an ExpertError.

    Args:
        module: maps normalized images ``(batch, *image_shape)`` to logits ``(batch, len(outputs))``.
        classes: global ids of the classes it was trained on.
        image_shape: ``(channels, height, width)``.
        outputs: the global class id of each output unit, None for a unit without a class; by default ``classes``. A
            head may have units for classes that the expert was not trained on.
        mean: of each channel, in pixel units; one number stands for all channels.
        std: of each channel, in pixel units, > 0.
        task: the task label t_i, where the scenario has tasks.
        name: for reports.

    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = Expert(head, classes=(3, 7), image_shape=(1, 8, 8))
    >>> expert.logits(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 2])
    """

    module: nn.Module = attrs.field(repr=lambda module: type(module).__name__)
    classes: tuple[int, ...] = attrs.field(converter=_tuple)
    image_shape: tuple[int, int, int] = attrs.field(converter=_tuple)
    outputs: tuple[int | None, ...] = attrs.field(
        default=attrs.Factory(attrgetter("classes"), takes_self=True), converter=_tuple, kw_only=True
    )
    mean: tuple[float, ...] = attrs.field(default=(0.0,), converter=_tuple, kw_only=True)
    std: tuple[float, ...] = attrs.field(default=(1.0,), converter=_tuple, kw_only=True)
    task: int | None = attrs.field(default=None, kw_only=True)
    name: str = attrs.field(default="expert", kw_only=True)

    def __attrs_post_init__(self) -> None:
        classes, units = self.classes, self._ids
        unique = len(set(classes)) == len(classes) and len(set(units)) == len(units)
        listed = f"classes {classes}, outputs {self.outputs}"
        missing = sorted(set(classes) - set(units))
        shaped = len(self.image_shape) == 3 and min(self.image_shape) >= 1
        self._require(bool(classes), "at least one class", "none")
        self._require(unique, "each class id once", listed)
        self._require(min((*classes, *units)) >= 0, "class ids from 0", listed)
        self._require(not missing, "an output unit for every class", f"none for {missing} in outputs {self.outputs}")
        self._require(shaped, "image_shape (channels, height, width)", str(self.image_shape))
        channels = self.image_shape[0]
        fits = {len(self.mean), len(self.std)} <= {1, channels} and min(self.std) > 0
        self._require(fits, f"mean and std of 1 or {channels} channels, std > 0", f"{self.mean}, {self.std}")

    @property
    def device(self) -> torch.device:
        """The device of its first parameter; the CPU for a module without parameters."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> Expert:
        """This expert with its module moved to a device, in place."""
        return attrs.evolve(self, module=self.module.to(device))

    def normalize(self, pixels: Images) -> Images:
        """From pixel units to the units of its module, ``(x - mean) / std``."""
        return (pixels - self._channels(self.mean, pixels)) / self._channels(self.std, pixels)

    def denormalize(self, images: Images) -> Images:
        """From the units of its module back to pixel units."""
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def logits(self, pixels: Images) -> Float[Tensor, "batch units"]:
        """Logits of images in pixel units, one column per output unit."""
        return self.module(self.normalize(pixels))

    def teach(self, pixels: Images, classes: int) -> TeacherLogits:
        """Logits of images in pixel units, one column per global class id below ``classes``."""
        logits = self.logits(pixels)
        known = self._sent(("known", classes), logits, lambda: _mask(self.classes, classes))
        present = self._sent(("present", classes), logits, lambda: _mask(self._ids, classes))
        if self.outputs != tuple(range(classes)):
            columns = self._sent("columns", logits, lambda: torch.tensor(self._ids))
            units = self._sent("units", logits, lambda: torch.tensor([self.outputs.index(name) for name in self._ids]))
            logits = logits.new_zeros(len(logits), classes).index_copy(1, columns, logits[:, units])
        return TeacherLogits(logits, known, present)

    def labels(self, pixels: Images) -> Labels:
        """The most probable of its own classes, as global ids: argmax f_i^S(x) (Sec. 4, auxiliary data)."""
        best = self.own_logits(self.logits(pixels)).argmax(1)
        return self._sent("class_ids", best, lambda: self.class_ids)[best]

    def own_logits(self, logits: Float[Tensor, "batch units"]) -> Float[Tensor, "batch known"]:
        """The columns of its own classes, in the order of ``classes``."""
        if self.outputs == self.classes:
            return logits
        return logits[:, self._sent("own_units", logits, lambda: self.own_units)]

    @cached_property
    def class_ids(self) -> Labels:
        """``classes`` as a tensor on the CPU."""
        return torch.tensor(self.classes)

    @cached_property
    def own_units(self) -> Labels:
        """The output unit of each class, on the CPU."""
        return torch.tensor([self.outputs.index(known) for known in self.classes])

    @torch.no_grad()
    def check(self, classes: int | None = None) -> None:
        """Run one forward pass, to check that the outputs match the card and are finite.

        Raises:
            ExpertError: wrong image shape, number of outputs, or a class id of at least ``classes``.
            NonFiniteError: NaN or infinity in its weights or logits.
        """
        largest = max(self._ids)
        remedy = "give the student more outputs, or correct the card's outputs"
        below = classes is None or largest < classes
        self._require(below, f"class ids below {classes}, the student's outputs", str(largest), remedy)
        for name, tensor in self.module.state_dict().items():
            finite = not tensor.is_floating_point() or bool(tensor.isfinite().all())
            self._require(finite, "finite weights", f"NaN or infinity in {name}", _DAMAGED, NonFiniteError)
        training = self.module.training
        self.module.eval()
        try:
            logits = self.logits(torch.zeros(2, *self.image_shape, device=self.device))
        except (RuntimeError, ValueError) as error:
            expected = f"a module that takes images {self.image_shape} (expert {self.name!r})"
            remedy = "correct image_shape on its card"
            raise ExpertError(expected=expected, got=str(error).splitlines()[0], remedy=remedy) from error
        finally:
            self.module.train(training)
        shape, wanted = tuple(logits.shape), (2, len(self.outputs))
        remedy = "correct outputs on its card: one class id (or None) per output unit"
        self._require(shape == wanted, f"logits {wanted} as its card says", str(shape), remedy)
        finite = bool(logits.isfinite().all())
        self._require(finite, "finite logits", "NaN or infinity for a black image", _DAMAGED, NonFiniteError)

    def fingerprint(self) -> str:
        """SHA-256 of its weights, class ids, mean and std, the same on every machine."""
        digest = hashlib.sha256(repr((self.classes, self.outputs, self.task, self.mean, self.std)).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _require(
        self, ok: bool, expected: str, got: str, remedy: str = "correct its card", error: type[ExmlError] = ExpertError
    ) -> None:
        if not ok:
            raise error(expected=f"{expected} (expert {self.name!r})", got=got, remedy=remedy)

    @property
    def _ids(self) -> list[int]:
        return [name for name in self.outputs if name is not None]

    @cached_property
    def _constants(self) -> dict[Hashable, Tensor]:
        return {}

    def _sent(self, name: Hashable, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """A constant on the device of a tensor, and in its type if both are floating; copied only once."""
        key = name, like.device, like.dtype
        if key not in self._constants:
            with torch.inference_mode(False):  # later calls may need gradients
                constant = make()
                self._constants[key] = constant.to(like.device, like.dtype if constant.is_floating_point() else None)
        return self._constants[key]

    def _channels(self, values: tuple[float, ...], like: Images) -> Tensor:
        return self._sent(values, like, lambda: torch.tensor(values, dtype=like.dtype).view(-1, 1, 1))


def _mask(ids: Sequence[int], classes: int) -> ClassMask:
    return torch.zeros(classes, dtype=torch.bool).index_fill(0, torch.tensor(ids), True)
