"""Figure 2: original images, and what is made from experts that know all classes or only two of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from exml.core.samples import Samples
from exml.runs.canvas import new_figure

ACROSS, DOWN = 10, 2
"""Classes side by side, images of each below each other; of more classes the first are shown."""


def figure2(panels: Sequence[tuple[str, Samples]]) -> Figure:
    """One panel below the other: a column for each class, in it some images with its label, clamped to [0, 1].

    Args:
        panels: title and images of each.
    """
    pages = [(title, _page(samples)) for title, samples in panels]
    width = 6.4
    heights = [width * page.shape[0] / page.shape[1] for _, page in pages]
    figure = new_figure(width, sum(heights) + 0.34 * len(pages))
    axes = figure.subplots(len(pages), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, page) in zip(axes, pages, strict=True):
        axis.imshow(page.numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=10, loc="left", pad=3)
        axis.set_axis_off()
    return figure


def _page(samples: Samples) -> Tensor:
    """Images of each class below each other, with white lines between; white where there are too few."""
    classes = samples.labels.unique()[:ACROSS].tolist()
    height, width = samples.images.shape[2:]
    page = torch.ones(DOWN * (height + 2) - 2, len(classes) * (width + 2) - 2, 3)
    for column, label in enumerate(classes):
        images = samples[(samples.labels == label).nonzero().flatten()[:DOWN]].pixels().float().clamp(0, 1)
        if images.shape[1] != 3:  # grey, or channels that no screen has
            images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        for line, image in enumerate(images):
            top, left = line * (height + 2), column * (width + 2)
            page[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return page
