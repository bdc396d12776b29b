"""Forward passes of an expert over any number of images, without gradients."""

from __future__ import annotations

import torch

from exml.core.errors import DataError, ShapeError
from exml.core.expert import Expert
from exml.core.samples import StoredImages, inference_batch_size
from exml.core.shapes import Images, Labels
from exml.core.targets import TeacherLogits
from exml.engine.frozen import frozen


def check_images(images: StoredImages, expert: Expert, source: str) -> None:
    """Check that there are images and that the expert takes their shape.

    Raises:
        DataError: when there is no image.
        ShapeError: when the shape differs.
    """
    if not len(images):
        raise DataError(expected=f"images from {source}", got="none", remedy="provide at least one image")
    if tuple(images.shape[1:]) != expert.image_shape:
        wanted, got = ("x".join(map(str, shape)) for shape in (expert.image_shape, images.shape[1:]))
        raise ShapeError(
            expected=f"images {wanted}, the input of expert {expert.name!r}",
            got=f"{got} from {source}",
            remedy="resize or convert them to that shape (channels x height x width)",
        )


@torch.no_grad()
def predicted_labels(expert: Expert, images: Images) -> Labels:
    """The most probable of the expert's own classes for images in pixel units, in evaluation mode."""
    with frozen(expert.module):
        return torch.cat([expert.labels(part) for part in images.split(inference_batch_size(images.shape[1:]))])


@torch.no_grad()
def teacher_logits(expert: Expert, images: Images, classes: int) -> TeacherLogits:
    """The expert's logits over ``classes`` global class ids for images in pixel units, on their device.

    The module runs in evaluation mode. Its mode and its device are restored afterwards.

    Raises:
        ExpertError: when its outputs do not match its card, or a class id is not below ``classes``.
        NonFiniteError: when its weights or logits are NaN or infinite.
    """
    home = expert.device
    expert = expert.to(images.device)
    try:
        expert.check(classes)
        with frozen(expert.module):
            parts = [expert.teach(batch, classes) for batch in images.split(inference_batch_size(images.shape[1:]))]
    finally:
        expert.to(home)
    return TeacherLogits(torch.cat([part.logits for part in parts]), parts[0].known, parts[0].present)
