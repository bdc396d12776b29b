"""HTML of objects in notebooks: tables and thumbnails in the colors of the notebook, with every text escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exml.core.errors import printable

_CELL = "text-align: left; vertical-align: top; padding: 2px 12px 2px 0"
SIDE = 64
"""Least width of a thumbnail in pixels of the screen."""


def escaped(text: object, /) -> str:
    """Printable text for HTML.

    >>> from exml.core.html import escaped
    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return html.escape(printable(str(text)))


def card(title: str, rows: Mapping[str, object], /, *more: str) -> str:
    """A title, a row per name and value, and more HTML below."""
    cells = (
        f'<tr><th scope="row" style="{_CELL}">{escaped(name)}</th><td style="{_CELL}">{escaped(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<div><strong>{escaped(title)}</strong><table>{''.join(cells)}</table>{''.join(more)}</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], /) -> str:
    """A table with a header."""
    heads = "".join(f'<th scope="col" style="{_CELL}">{escaped(name)}</th>' for name in head)
    lines = ("".join(f'<td style="{_CELL}">{escaped(cell)}</td>' for cell in row) for row in rows)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def thumbnail(image: NDArray[np.uint8], caption: str, /) -> str:
    """An image ``(height, width)`` or ``(height, width, 3)`` with a caption; small ones are enlarged."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    width = max(SIDE, image.shape[1])
    return (
        f'<figure style="display: inline-block; margin: 2px; text-align: center">'
        f'<img src="data:image/png;base64,{source}" alt="{escaped(caption)}" width="{width}" '
        f'style="image-rendering: pixelated"><figcaption>{escaped(caption)}</figcaption></figure>'
    )
