"""Asking the experts of a stream, one after the other, for whole batches of images."""

from __future__ import annotations

import torch

from exml.core.expert import Expert
from exml.core.samples import inference_batch_size
from exml.core.shapes import Images
from exml.core.targets import TeacherLogits
from exml.engine import frozen


@torch.no_grad()
def ask(expert: Expert, images: Images, classes: int) -> TeacherLogits:
    """The expert's logits over all classes for images in pixel units, on their device.

    The module is used in evaluation mode, and afterwards is as it was, where it was.

    Raises:
        ExpertError: when its outputs do not match its card, or it has a class that is not among ``classes``.
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
