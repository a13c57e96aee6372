"""Where in a document a module is to be found."""

from __future__ import annotations

from urllib.parse import quote


def anchor(module: str) -> str:
    """A stable id for any name: printable ASCII without spaces and quotes, another for each.

    What is not a letter, a digit, `.`, `-` or `_` is percent-quoted.
    """
    return quote(module, safe="", errors="surrogatepass").replace("~", "%7E")
