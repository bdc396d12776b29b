"""Small corrections of the HTML that Sphinx writes, so that screen readers and axe accept it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CORRECTIONS = (
    # A signature on several lines is no list of definitions: it has no terms.
    (r"<dl>\s*((?:<dd>(?:(?!</?d[ltd]\b).)*</dd>\s*)+)</dl>", lambda found: _lines(found[1])),
    # The corner of a table is no header.
    (r"<th class=\"head[^\"]*\"><p></p></th>", lambda _: "<td></td>"),
)


def _lines(body: str) -> str:
    body = body.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{body}</span>'


def correct(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Rewrite the body of a page."""
    for pattern, replacement in CORRECTIONS:
        context["body"] = re.sub(pattern, replacement, context.get("body", ""), flags=re.DOTALL)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("html-page-context", correct)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
