"""Frozen networks, and forward passes of an expert over any number of images."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exml.core.admission import evaluation_mode
from exml.core.errors import DataError, ShapeError
from exml.core.expert import Expert
from exml.core.samples import StoredImages, inference_batch_size
from exml.core.shapes import ClassMask, Images, Labels
from exml.core.targets import TeacherLogits


@contextmanager
def frozen(module: nn.Module) -> Generator[nn.Module]:
    """Put a module into evaluation mode without weight gradients inside the block, and restore both afterwards.

    >>> import torch
    >>> from exml.engine import frozen
    >>> layer = torch.nn.Linear(2, 2)
    >>> with frozen(layer):
    ...     layer.weight.requires_grad, layer.training
    (False, False)
    >>> layer.weight.requires_grad, layer.training
    (True, True)
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        with evaluation_mode(module):
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield module
    finally:
        for parameter, wants in wanted:
            parameter.requires_grad_(wants)


def check_images(images: StoredImages, expert: Expert, source: str) -> None:
    """Raise a DataError if there is no image, or a ShapeError if the expert does not take their shape."""
    if not len(images):
        raise DataError(expected=f"images from {source}", got="none", remedy="provide at least one image")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        expected, remedy = f"floating or uint8 images from {source}", "convert those from 0 to 255 to torch.uint8"
        raise ShapeError(expected=expected, got=str(images.dtype), remedy=remedy)
    if tuple(images.shape[1:]) != expert.image_shape:
        wanted, got = ("x".join(map(str, shape)) for shape in (expert.image_shape, images.shape[1:]))
        raise ShapeError(
            expected=f"images {wanted}, the input of expert {expert.name!r}",
            got=f"{got} from {source}",
            remedy="move the channels to the front, images.permute(0, 3, 1, 2)"
            if (images.shape[-1], *images.shape[1:-1]) == expert.image_shape
            else "resize or convert them to that shape (channels x height x width)",
        )


@torch.no_grad()
def predicted_labels(expert: Expert, images: Images) -> Labels:
    """The most probable of the expert's own classes for images in pixel units, in evaluation mode."""
    with frozen(expert.module):
        return torch.cat([expert.predicted_ids(part) for part in images.split(inference_batch_size(images.shape[1:]))])


@torch.no_grad()
def teacher_logits(expert: Expert, images: Images, classes: int) -> TeacherLogits:
    """The expert's logits over ``classes`` global class ids for images in pixel units, on their device.

    The module runs in evaluation mode; its mode and its device are restored afterwards. Raises an ExpertError if its
    outputs do not match its card, and a NonFiniteError if its weights or logits are NaN or infinite.

    >>> import torch
    >>> from exml.engine import teacher_logits
    >>> from exml.testing import tiny_expert
    >>> outputs = teacher_logits(tiny_expert(), torch.rand(3, 1, 8, 8), classes=6)
    >>> outputs.logits.shape, outputs.known.nonzero().flatten().tolist()
    (torch.Size([3, 6]), [1, 4])
    """
    home = expert.device
    expert = expert.to(images.device)
    try:
        expert.check(classes, unwrap=True)
        with frozen(expert.module):
            parts = [expert.teach(batch, classes) for batch in images.split(inference_batch_size(images.shape[1:]))]
    finally:
        expert.to(home)
    return TeacherLogits(torch.cat([part.logits for part in parts]), parts[0].known, parts[0].present)


@attrs.frozen(eq=False)
class ExpertLogits:
    """The logits of one expert over its own classes, on the CPU.

    Args:
        name: of the expert.
        known: its classes among those of the student.
        logits: in ascending order of class ids.
    """

    name: str
    known: ClassMask
    logits: Float[Tensor, "batch known"]

    @classmethod
    def of(cls, expert: Expert, images: Images, classes: int) -> ExpertLogits:
        """A forward pass over images in pixel units; the errors are those of :func:`teacher_logits`."""
        found = teacher_logits(expert, images, classes)
        known = found.known.cpu()
        return cls(expert.name, known, found.logits.float().cpu()[:, known])

    @property
    def predicted(self) -> Labels:
        """The most probable class of each image."""
        return self.known.nonzero().flatten()[self.logits.argmax(1)]

    @property
    def scale(self) -> float:
        """The standard deviation of the logits of an image, averaged over the images."""
        return float(self.logits.std(1, unbiased=False).mean())

    def among(self, classes: ClassMask) -> ExpertLogits:
        """The same for some of the classes."""
        return attrs.evolve(self, known=classes, logits=self.logits[:, classes[self.known]])

    def full(self) -> TeacherLogits:
        """One column per class id."""
        columns = self.logits.new_zeros(len(self.logits), len(self.known))
        columns[:, self.known] = self.logits
        return TeacherLogits(columns, self.known, self.known)
