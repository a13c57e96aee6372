"""Foreign text inside a drawing."""

from __future__ import annotations

from html import escape

from fp8scope.core.words import printable


def inert(text: str) -> str:
    """Text as plotly shows it letter by letter.

    plotly reads a subset of HTML in labels, titles and hover text, links among it; and `%{` begins
    a placeholder in a template.
    """
    return escape(printable(text), quote=False).replace("%{", "%\u200b{")
