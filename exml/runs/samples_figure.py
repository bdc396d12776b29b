"""The images that a student learned from, by expert and class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from exml.core.samples import Samples
from exml.runs.canvas import fitted, new_figure
from exml.runs.result import ExperienceResult

MOST_EXPERTS, MOST_CLASSES = 12, 10
"""Maximum number of rows, and of cells per row; of more, evenly spaced ones are shown."""
T = TypeVar("T")


def samples_figure(memory: Samples, experiences: Sequence[ExperienceResult], title: str) -> Figure:
    """One row per expert, one cell per class, and in each a few images of the buffer, clamped to [0, 1].

    Args:
        memory: the buffer M_n.
        experiences: the experiences to show.
        title: title of the figure.
    """
    rows = _spread(experiences, MOST_EXPERTS)
    cells = max(min(len(experience.classes), MOST_CLASSES) for experience in rows)
    across = max(2, min(8, 20 // cells))
    down = 2 if len(rows) > 1 else 8
    height, width = memory.images.shape[2:]
    cell = 10.0 / cells
    row_height = cell * (down * height) / (across * width) + 0.32
    figure = new_figure(11.0, 0.8 + row_height * len(rows))
    figure.suptitle(fitted(title, 11.0, 11), fontsize=11)
    axes = figure.subplots(len(rows), cells, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    for line, experience in zip(axes, rows, strict=True):
        classes = _spread(experience.classes, MOST_CLASSES)
        left_out = "" if len(classes) == len(experience.classes) else f"\n{len(classes)} of {len(experience.classes)}"
        for column, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if column >= len(classes):
                axis.set_axis_off()
                continue
            mine = (memory.experiences == experience.index) & (memory.labels == classes[column])
            images = memory.images[mine][: across * down].detach().float().cpu()
            axis.set_title(f"class {classes[column]}", fontsize=9, pad=3)
            if column == 0:
                axis.set_ylabel(f"expert {experience.index}{left_out}", fontsize=9)
            axis.imshow(_montage(images, across, down).numpy(), interpolation="nearest")
            if len(images) == 0:
                place = {"ha": "center", "va": "center", "transform": axis.transAxes}
                axis.text(0.5, 0.5, "none", fontsize=8, color="#555555", **place)
    return figure


def _montage(images: Tensor, across: int, down: int) -> Tensor:
    """Images in a grid as one RGB image, with white lines between them and white for missing ones."""
    if images.shape[1] != 3:  # gray, or not RGB
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    height, width = images.shape[2:]
    page = torch.ones(down * (height + 1) - 1, across * (width + 1) - 1, 3)
    for index, image in enumerate(images.clamp(0, 1)):
        top, left = index // across * (height + 1), index % across * (width + 1)
        page[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return page


def _spread(items: Sequence[T], most: int) -> list[T]:
    """All items, or ``most`` evenly spaced ones with the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
