"""The figures of a run. They are drawn without pyplot, whose global state stays unchanged."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from exml.core.errors import printable, shortened
from exml.core.files import write_atomically
from exml.core.samples import Samples, StoredImages, to_pixels
from exml.runs.assessment import Assessment
from exml.runs.result import ExperienceResult, Result, StrategyResult

# The palette of Okabe and Ito, safe for color blindness, without its yellow, which is too light on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRAY = "#B0B0B0"
MOST_EXPERTS, MOST_CLASSES = 12, 10
"""Maximum number of rows of images, and of cells per row; of more, evenly spaced ones are shown."""
MOST_LABELS, MOST_NUMBERS = 100, 15
"""Maximum number of labels on the axes of a confusion matrix, and with numbers in its cells."""
T = TypeVar("T")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, for a canvas without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def fitted(title: str, width: float, size: float) -> str:
    """A title, wrapped to a width in inches at a font size.

    >>> from exml.runs.figures import fitted
    >>> fitted("mnist-nc, seed 0", 4.0, 10)
    'mnist-nc, seed 0'
    >>> fitted("cifar10-nc:epochs=8,learning_rate=0.05,schedule=cosine, seed 0", 4.0, 10).splitlines()
    ['cifar10-nc:epochs=8, learning_rate=0.05,', 'schedule=cosine, seed 0']
    """
    title = printable(title).replace("$", r"\$")  # no mathematics
    letters = max(1, int(72 * width / (0.6 * size)))
    if len(title) <= letters:
        return title
    return textwrap.fill(re.sub(r",(?=\S)", ", ", title), letters, break_on_hyphens=False)


def save_figure(figure: Figure, path: Path | str, /) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a title may have any letters
        write_atomically(Path(path), lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def accuracy_figure(result: Result, *, stacked: bool = False) -> Figure:
    """Stream accuracies of students and baselines after the stream.

    For several experiences, a second panel shows the stream accuracy of each student after each experience. With a
    single strategy, a third panel shows its accuracy matrix.

    Args:
        result: of a run over a scenario.
        stacked: whether the panels are below one another, for a narrow page.
    """
    rows = len(result.strategies) + len(result.baselines)
    panels = 1 if len(result.experiences) == 1 else 3 if len(result.strategies) == 1 and not result.shared_test else 2
    across, down = (1, panels) if stacked else (panels, 1)
    width = 1.5 + 4.2 * across
    figure = new_figure(width, max(3.4, 1.7 + 0.34 * rows) * down)
    title = f"{result.scenario}, seed {result.seed}, {result.split} images"
    figure.suptitle(fitted(title, width, 11), fontsize=11)
    axes = figure.subplots(down, across, squeeze=False).flat
    _bars(axes[0], result)
    breaks = Patch(facecolor="white", edgecolor="#555555", hatch="///", label="breaks them")
    keeps = Patch(facecolor="#555555", edgecolor="#555555", label="keeps the ex-model constraints (Sec. 2)")
    figure.legend(
        handles=[keeps, breaks], loc="outside lower left", fontsize=8, ncols=1 if stacked else 2, frameon=False
    )
    if panels > 1:
        _lines(axes[1], result)
    if panels > 2:
        _matrix(figure, axes[2], result)
    return figure


def _bars(axis: Any, result: Result) -> None:
    """Stream accuracy, one bar per row; rows that break the constraints of the ex-model scenario are hatched."""
    rows = [*result.strategies, *result.baselines]
    for place, row in enumerate(rows):
        student = isinstance(row, StrategyResult)
        accuracy = row.stream_accuracy[-1] if student else row.stream_accuracy
        color = COLORS[place % len(COLORS)] if student else GRAY
        if accuracy is not None:
            look = {"color": color} if row.ex_model else {"color": "white", "hatch": "///"}
            axis.barh(place, 100 * accuracy, edgecolor=color, height=0.7, **look)
        text = "does not apply" if accuracy is None else f"{100 * accuracy:.1f}"
        axis.text(100 * (accuracy or 0) + 1, place, text, va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axis.set(xlim=(0, 115), xticks=range(0, 101, 20), xlabel="stream accuracy (Eq. 2), %")
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axis.set_title("after the whole stream", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["bottom"].set_bounds(0, 100)


def _lines(axis: Any, result: Result) -> None:
    """Stream accuracy of each student after each experience."""
    places = [experience.index for experience in result.experiences]
    for number, row in enumerate(result.strategies):
        axis.plot(
            places,
            [100 * accuracy for accuracy in row.stream_accuracy],
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if row.ex_model else "--",
            label=row.name,
            clip_on=False,
        )
    axis.set(ylim=(0, 100), xticks=places, xlabel="experience i", ylabel="accuracy, %")
    tested = "the test set" if result.shared_test else "experiences 1 to i"
    axis.set_title(f"student after experience i, on {tested}", fontsize=9)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    if len(result.strategies) > 1:
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _matrix(figure: Figure, axis: Any, result: Result) -> None:
    """The accuracy matrix of a single student."""
    row = result.strategies[0]
    image = axis.imshow(row.accuracy, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    names = [str(experience.index) for experience in result.experiences]
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="test images of experience j", ylabel="after experience i")
    axis.set_title(f"accuracy of {row.name}, %", fontsize=9)
    if len(names) > 12:  # more numbers would not be readable
        figure.colorbar(image, ax=axis, format=PercentFormatter(1))
        return
    for i, accuracies in enumerate(row.accuracy):
        for j, accuracy in enumerate(accuracies):
            color = "black" if accuracy > 0.5 else "white"
            axis.text(j, i, f"{100 * accuracy:.0f}", ha="center", va="center", fontsize=8, color=color)


def confusion_figure(found: Assessment) -> Figure:
    """The confusion matrix of a student as a heat map, each row a share of the images of its label.

    Up to 100 labels are written on both axes; up to 15, the number of images is in each cell.

    Args:
        found: of :func:`exml.runs.assess`.
    """
    count = len(found.labels)
    side = min(max(2.5, 0.17 * count), 17.0)
    figure = new_figure(side + 2.5, side + 2.0)
    axis: Any = figure.subplots()
    cells = torch.tensor(found.confusion, dtype=torch.float64)
    shares = cells / cells.sum(1, keepdim=True)  # NaN, which is left white, for a label without images
    image = axis.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, format=PercentFormatter(1), shrink=0.6)
    if count <= MOST_LABELS:
        names = [shortened(printable(label), 20).replace("$", r"\$") for label in found.labels]
        axis.set_xticks(range(count), names, rotation=90, fontsize=7)
        axis.set_yticks(range(count), names, fontsize=7)
    axis.set(xlabel="predicted label", ylabel="label of the image")
    title = f"{found.classifiers[0].name}, {100 * found.classifiers[0].accuracy:.1f} % of {sum(found.images)} images"
    axis.set_title(fitted(title, side + 1.5, 10), fontsize=10)
    for i, row in enumerate(found.confusion if count <= MOST_NUMBERS else ()):
        for j, number in enumerate(row):
            color = "black" if shares[i, j] > 0.5 else "white"
            axis.text(j, i, str(number) if number else "", ha="center", va="center", fontsize=6, color=color)
    return figure


def images_figure(rows: Mapping[str, StoredImages], title: str, *, across: int = 10) -> Figure:
    """Images in rows, each under its name: those of several generators or priors, for example.

    Args:
        rows: by name, images ``(n, channels, height, width)``, uint8 or floating in pixel units, clamped to [0, 1].
            The first ``across`` of each are shown.
        title: of the figure.
        across: images per row.

    >>> import torch
    >>> from exml.runs.figures import images_figure
    >>> rows = {"black": torch.zeros(3, 1, 8, 8), "white": torch.ones(20, 1, 8, 8)}
    >>> [axis.get_title(loc="left") for axis in images_figure(rows, "Two shades").axes]
    ['black', 'white']
    """
    width = 5.0
    heights = [width * images.shape[2] / (across * images.shape[3]) for images in rows.values()]
    figure = new_figure(width + 0.2, sum(heights) + 0.3 * len(rows) + 0.4)
    figure.suptitle(fitted(title, width, 11), fontsize=11)
    axes = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(name, loc="left", fontsize=10, pad=3)
        shown = to_pixels(images[:across]).detach().float().cpu()
        axis.imshow(montage(shown, across, 1).numpy(), interpolation="nearest")
    return figure


def samples_figure(memory: Samples, experiences: Sequence[ExperienceResult], title: str) -> Figure:
    """One row per expert, one cell per class, and in each a few images of the buffer, clamped to [0, 1].

    Args:
        memory: the buffer M_n.
        experiences: the experiences to show.
        title: title of the figure.
    """
    rows = _spread(experiences, MOST_EXPERTS)
    cells = max(min(len(experience.classes), MOST_CLASSES) for experience in rows)
    across, down = max(2, min(8, 20 // cells)), 2 if len(rows) > 1 else 8
    height, width = memory.images.shape[2:]
    row_height = 10.0 / cells * (down * height) / (across * width) + 0.32
    figure = new_figure(11.0, 0.8 + row_height * len(rows))
    figure.suptitle(fitted(title, 11.0, 11), fontsize=11)
    axes = figure.subplots(len(rows), cells, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    for line, experience in zip(axes, rows, strict=True):
        classes = _spread(experience.classes, MOST_CLASSES)
        left_out = "" if len(classes) == len(experience.classes) else f"\n{len(classes)} of {len(experience.classes)}"
        line[0].set_ylabel(f"expert {experience.index}{left_out}", fontsize=9)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis in line[len(classes) :]:
            axis.set_axis_off()
        for axis, label in zip(line, classes, strict=False):
            mine = (memory.experiences == experience.index) & (memory.labels == label)
            images = memory.images[mine][: across * down].detach().float().cpu()
            axis.set_title(f"class {label}", fontsize=9, pad=3)
            axis.imshow(montage(images, across, down).numpy(), interpolation="nearest")
            if len(images) == 0:
                place = {"ha": "center", "va": "center", "transform": axis.transAxes}
                axis.text(0.5, 0.5, "none", fontsize=8, color="#555555", **place)
    return figure


def montage(images: Tensor, across: int, down: int) -> Tensor:
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
