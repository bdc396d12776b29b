"""What the figures share. They are made without pyplot, whose global state stays unchanged."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from exml.core.files import write_atomically

# The palette of Okabe and Ito, safe for color blindness, without its yellow, which is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#B0B0B0"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, for a canvas without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def fitted(title: str, width: float, size: float) -> str:
    """A title, wrapped to a width in inches at a font size.

    >>> fitted("mnist-nc, seed 0", 4.0, 10)
    'mnist-nc, seed 0'
    >>> fitted("cifar10-nc:epochs=8,learning_rate=0.05,schedule=cosine, seed 0", 4.0, 10).splitlines()
    ['cifar10-nc:epochs=8, learning_rate=0.05,', 'schedule=cosine, seed 0']
    """
    letters = max(1, int(72 * width / (0.6 * size)))
    if len(title) <= letters:
        return title
    return textwrap.fill(re.sub(r",(?=\S)", ", ", title), letters, break_on_hyphens=False)


def save_figure(figure: Figure, path: Path | str, /) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_atomically(Path(path), lambda temporary: figure.savefig(temporary, format="png", dpi=150))
