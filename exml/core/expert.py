"""One expert f_i^S of the stream (Sec. 2): a trained classifier and its metadata."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from itertools import chain
from math import prod
from operator import attrgetter
from typing import Any, Literal, cast

import attrs
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.admission import check_gradient, check_outputs, check_weights, evaluation_mode, guarded
from exml.core.errors import ExmlError, ExpertError, shortened, warn
from exml.core.html import card
from exml.core.outputs import logits_of
from exml.core.querying import Query, QueryModule
from exml.core.shapes import ClassMask, Images, Labels
from exml.core.targets import TeacherLogits

_MOST_CLASSES, _MOST_VALUES = 2**24, 2**26  # more are mistakes, and would fill the memory
_LONGEST = 1_000  # characters of a label


def _tuple(values: Any) -> Any:
    """Values in order as a tuple of plain numbers; others, such as those of a set, stay as they are."""
    if not isinstance(values, Sequence | Tensor | np.ndarray) or isinstance(values, str | bytes):
        return values
    return tuple(value.item() if isinstance(value, Tensor | np.generic) else value for value in values)


def _are(values: tuple[object, ...], kind: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kind) for value in values)


@attrs.frozen(eq=False, slots=False)
class Expert:
    """A trained classifier, the global ids of the classes it knows, and the normalization of its images.

    Ids or labels that repeat, negative ids, classes without an order or an output unit, and a mean or std beyond 5, as
    of pixels from 0 to 255, raise an ExpertError.

    Args:
        module: maps normalized images ``(batch, *image_shape)`` to logits ``(batch, len(outputs))``.
        classes: global ids of the classes it was trained on; by default, 0 to N - 1 for N ``labels``.
        image_shape: ``(channels, height, width)``; required.
        labels: the name of each class, in the order of ``classes``; None if classes have only numbers.
        outputs: the global class id of each output unit, None for a unit without a class; by default ``classes``. A
            head may have units for classes that the expert was not trained on.
        mean: of each channel, in pixel units; one value stands for all channels.
        std: of each channel, in pixel units, > 0.
        task: the task label t_i, where the scenario has tasks.
        name: for reports.

    >>> import torch
    >>> from exml import Expert
    >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    >>> expert = Expert(head, classes=(3, 7), image_shape=(1, 8, 8))
    >>> expert.logits(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 2])
    >>> Expert(head, labels=["cat", "dog"], image_shape=(1, 8, 8)).classes
    (0, 1)
    """

    module: nn.Module = attrs.field(repr=lambda module: type(module).__name__)
    labels: tuple[str, ...] | None = attrs.field(default=None, converter=_tuple, kw_only=True)
    classes: tuple[int, ...] = attrs.field(
        default=attrs.Factory(lambda self: tuple(range(len(self.labels or ()))), takes_self=True), converter=_tuple
    )
    image_shape: tuple[int, int, int] = attrs.field(default=cast(Any, ()), converter=_tuple)
    outputs: tuple[int | None, ...] = attrs.field(
        default=attrs.Factory(attrgetter("classes"), takes_self=True), converter=_tuple, kw_only=True
    )
    mean: tuple[float, ...] = attrs.field(default=(0.0,), converter=_tuple, kw_only=True)
    std: tuple[float, ...] = attrs.field(default=(1.0,), converter=_tuple, kw_only=True)
    task: int | None = attrs.field(default=None, kw_only=True)
    name: str = attrs.field(default="expert", kw_only=True)

    def __attrs_post_init__(self) -> None:
        kind = type(self.module).__name__
        self._require(_are((self.module,), nn.Module), "a torch.nn.Module", kind, "wrap it in a module")
        for name in ("classes", "outputs", "image_shape", "mean", "std", *(() if self.labels is None else ("labels",))):
            value = getattr(self, name)
            got = f"a {type(value).__name__}"
            self._require(isinstance(value, tuple), f"{name} in order", got, "give a list or a tuple")
        classes, units = self.classes, self._ids
        listed = f"classes {classes}, outputs {self.outputs}"
        integers = _are((*classes, *units, *self.image_shape), int)
        self._require(integers, "integer class ids and sizes", f"{listed}, image_shape {self.image_shape}")
        unique = len(set(classes)) == len(classes) and len(set(units)) == len(units)
        missing = sorted(set(classes) - set(units))
        shaped = len(self.image_shape) == 3 and min(self.image_shape) >= 1 and prod(self.image_shape) <= _MOST_VALUES
        self._require(bool(classes), "at least one class", "none")
        self._require(unique, "each class id once", listed)
        self._check_labels()
        self._require(min((*classes, *units)) >= 0, "class ids from 0", listed)
        self._require(max((*classes, *units)) < _MOST_CLASSES, f"class ids below {_MOST_CLASSES}", listed)
        self._require(not missing, "an output unit for every class", f"none for {missing} in outputs {self.outputs}")
        expected = f"image_shape (channels, height, width), at most {_MOST_VALUES} values"
        self._require(shaped, expected, str(self.image_shape))
        channels = self.image_shape[0]
        given = f"mean {self.mean}, std {self.std}"
        fits = (
            _are((*self.mean, *self.std), (int, float))
            and {len(self.mean), len(self.std)} <= {1, channels}
            and min(self.std) > 0
        )
        self._require(fits, f"mean and std of 1 or {channels} channels, std > 0", given)
        small = all(abs(number) <= 5 for number in (*self.mean, *self.std))  # not NaN
        remedy = "divide those for pixels from 0 to 255 by 255"
        self._require(small, "mean and std in pixel units, where images are in [0, 1]", given, remedy)

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        known = self.classes if self.labels is None else self.labels
        parameters = sum(each.numel() for each in self.module.parameters())
        rows: dict[str, object] = {
            "module": f"{type(self.module).__name__}, {parameters:,} parameters",
            "classes": f"{len(known)}: {shortened(', '.join(map(str, known)), 200)}",
            "output units": len(self.outputs),
            "images": "x".join(map(str, self.image_shape)),
            "mean / std": " / ".join(", ".join(f"{value:.3g}" for value in part) for part in (self.mean, self.std)),
        }
        return card(f"Expert {self.name}", rows if self.task is None else {**rows, "task": self.task})

    @classmethod
    def query(
        cls,
        function: Query,
        *,
        image_shape: Sequence[int],
        labels: Sequence[str] | None = None,
        classes: Sequence[int] = (),
        output: Literal["logits", "probabilities"] = "logits",
        batch_size: int = 256,
        name: str = "query",
    ) -> Expert:
        """An expert that is only a function, such as a scikit-learn or Keras model, or a remote endpoint.

        Its logits have no gradient, so its images must come from a generator without gradients, such as
        :class:`exml.generators.ProceduralImages`; :func:`exml.recipes.default` chooses one.

        Args:
            function: takes float32 images ``(batch, *image_shape)`` in [0, 1], a NumPy array, and returns an array
                ``(batch, classes)``. Preprocessing is its own affair.
            image_shape: ``(channels, height, width)``.
            labels: the name of each column.
            classes: the global id of each column; by default, 0 to N - 1 for N labels.
            output: what the function returns. Probabilities become their logarithms, those below 0.0001 that of 0.0001.
            batch_size: the most images of a call.
            name: for reports.

        Raises:
            ExpertError: as for :class:`Expert`. Whatever the function raises or returns that does not fit becomes one
                when the expert is used.

        >>> import numpy as np, torch
        >>> from exml import Expert
        >>> brightness = lambda images: np.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)
        >>> shape, labels = (1, 8, 8), ["dark", "light"]
        >>> expert = Expert.query(brightness, image_shape=shape, labels=labels, output="probabilities")
        >>> expert.predicted_ids(torch.ones(3, 1, 8, 8)), expert.differentiable
        (tensor([1, 1, 1]), False)
        """
        classes = tuple(classes) or tuple(range(len(labels or ())))
        module = QueryModule(function, len(classes), output, batch_size, name)
        return cls(module, classes, tuple(image_shape), labels=labels, name=name)

    @property
    def device(self) -> torch.device:
        """The device of its first parameter or buffer; the CPU for a module without them."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @cached_property
    def differentiable(self) -> bool:
        """Whether its logits have a usable gradient with respect to the pixels, as :meth:`check_gradient` requires.

        The first use runs a forward and a backward pass. It is False for an expert that cannot be used at all.
        """
        try:
            self.check_gradient()
        except ExmlError:
            return False
        return True

    def to(self, device: torch.device | str) -> Expert:
        """This expert with its module moved to a device, in place."""
        with guarded(
            self.module, f"a module that can move to {device} ({self._owner})", "load its weights into memory"
        ):
            return attrs.evolve(self, module=self.module.to(device))

    def normalize(self, pixels: Images) -> Images:
        """From pixel units to the units of its module, ``(x - mean) / std``."""
        return (pixels - self._channels(self.mean, pixels)) / self._channels(self.std, pixels)

    def denormalize(self, images: Images) -> Images:
        """From the units of its module back to pixel units."""
        return images * self._channels(self.std, images) + self._channels(self.mean, images)

    def logits(self, pixels: Images) -> Float[Tensor, "batch units"]:
        """Logits of images in pixel units, one column per output unit, in evaluation mode.

        Raises a ShapeError if the logits are not obvious in what the module returns.
        """
        with evaluation_mode(self.module):
            return logits_of(self.module(self.normalize(pixels)))

    def teach(self, pixels: Images, classes: int) -> TeacherLogits:
        """Logits of images in pixel units, one column per global class id below ``classes``."""
        logits = (
            self.logits(pixels)
            if getattr(self.module, "training", False)
            else logits_of(self.module(self.normalize(pixels)))
        )
        known = self._sent(("known", classes), logits, lambda: _mask(self.classes, classes))
        present = self._sent(("present", classes), logits, lambda: _mask(self._ids, classes))
        if self.outputs != tuple(range(classes)):
            columns = self._sent("columns", logits, lambda: torch.tensor(self._ids))
            units = self._sent("units", logits, lambda: torch.tensor([self.outputs.index(name) for name in self._ids]))
            logits = logits.new_zeros(len(logits), classes).index_copy(1, columns, logits[:, units])
        return TeacherLogits(logits, known, present)

    def predicted_ids(self, pixels: Images) -> Labels:
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

    def check(self, classes: int | None = None, *, unwrap: bool = False) -> None:
        """Run a few forward passes, to check that the module can be used and that its outputs match the card.

        Logits that are random, depend on the rest of the batch or look like probabilities cause an
        :class:`exml.core.errors.ExmlWarning`, and so do a mean and std of an unusual range.

        Args:
            classes: the number of the student's outputs.
            unwrap: accept outputs such as tuples and mappings if the logits in them are obvious, as a learner does.

        Raises:
            ExpertError: whatever its module raises, wrong outputs, or a class id of at least ``classes``.
            NonFiniteError: NaN or infinity in its weights or logits.
        """
        largest = max(self._ids)
        remedy = "give the student more outputs (exml.Learner.grow), or correct the card's outputs"
        below = classes is None or largest < classes
        self._require(below, f"class ids below {classes}, the student's outputs", str(largest), remedy)
        if not (all(-1 <= mean <= 2 for mean in self.mean) and all(1e-3 <= std <= 2 for std in self.std)):
            expected, got = f"mean and std of images in [0, 1] ({self._owner})", f"mean {self.mean}, std {self.std}"
            warn(expected, got, "divide those for pixels from 0 to 255 by 255")
        with torch.inference_mode(False), torch.no_grad():
            check_weights(self.module, self._owner)
            noise = self._noise(1.0, 1e3, -1e3)
            images = torch.cat((torch.zeros_like(noise[:1]), noise[:1]))
            forward = partial(self._attempt, unwrap=unwrap)
            check_outputs(forward, images, noise[1:], len(self.outputs), self._owner)

    def check_gradient(self) -> None:
        """Check that its logits have a gradient with respect to the pixels, which some generators need.

        Raises an ExpertError if there is none, or if it is not finite or 0 everywhere.
        """
        check_gradient(self.module, self._attempt, self._noise(1.0, -1.0, 0.5, 0.1), self._owner)

    def fingerprint(self) -> str:
        """SHA-256 of its weights, class ids, labels, mean and std, the same on every machine.

        In place of weights, a module without any has its predictions for 64 images.
        """
        digest = hashlib.sha256(repr((self.classes, self.outputs, self.task, self.mean, self.std)).encode())
        if self.labels is not None:
            digest.update(repr(self.labels).encode())
        # Only tensors, and not the extra state of a module.
        state = {name: value for name, value in self.module.state_dict().items() if isinstance(value, Tensor)}
        if not state:
            images = torch.rand(64, *self.image_shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                state = {"predictions": self._attempt(images.to(self.device)).argmax(1)}
        for name, tensor in sorted(state.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _check_labels(self) -> None:
        labels = self.labels
        if labels is None:
            return
        named = all(isinstance(label, str) and bool(label.strip()) for label in cast(tuple[object, ...], labels))
        self._require(named, "labels as a list of names", repr(labels))
        self._require(max(map(len, labels)) <= _LONGEST, f"labels of at most {_LONGEST} characters", "a longer one")
        repeated = [label for label, count in Counter(labels).items() if count > 1]
        self._require(not repeated, "each label once", f"{shortened(repr(repeated), 200)} repeated")
        expected = f"one label for each of {len(self.classes)} classes"
        self._require(len(labels) == len(self.classes), expected, f"{len(labels)} labels")

    def _require(self, ok: bool, expected: str, got: str, remedy: str = "correct its card") -> None:
        if not ok:
            raise ExpertError(expected=f"{expected} ({self._owner})", got=got, remedy=remedy)

    @property
    def _owner(self) -> str:
        return f"expert {self.name!r}"

    def _attempt(self, pixels: Images, unwrap: bool = True) -> Tensor:
        """A forward pass in evaluation mode; whatever it raises becomes an ExpertError."""
        remedy = "correct image_shape on its card, or wrap the module so that it takes a batch of images alone"
        expected = f"a module that takes images {self.image_shape} ({self._owner})"
        with guarded(self.module, expected, remedy), evaluation_mode(self.module):
            return logits_of(self.module(self.normalize(pixels)), unwrap=unwrap)

    def _noise(self, *scales: float) -> Images:
        """One normal image per scale in the units of its module, returned in pixel units."""
        noise = torch.randn(self.image_shape, generator=torch.Generator().manual_seed(0))
        return self.denormalize(torch.stack([scale * noise for scale in scales]).to(self.device))

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
