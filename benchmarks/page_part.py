"""The part of a page that a script writes, between two marks; the rest of the page is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exml.core.files import write_text

END = "% end of measured\n"


def with_part(text: str, script: str, part: str) -> str:
    """The text of a page with the part of a script made anew; the first mark names the script."""
    begin = f"% measured: written by benchmarks/{script}\n"
    before, rest = text.split(begin)
    return before + begin + part + END + rest.split(END, 1)[1]


def write_page(page: Path, result: Path, made: Callable[[str, Mapping[str, Any]], str]) -> None:
    """Write a page anew.

    Args:
        page: its file.
        result: JSON, what was measured.
        made: the text of the page, from its text until now and what was measured.
    """
    write_text(page, made(page.read_text(encoding="utf-8"), json.loads(result.read_text(encoding="utf-8"))))
