"""A document as one HTML file that needs nothing else: no network, no other file.

Everything in the document is foreign and is escaped by the templates. Should that ever fail, the
page's content security policy still runs no script but the ones written here, known by their
hashes, and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from math import isnan
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fp8scope.core.words import printable
from fp8scope.errors import Missing
from fp8scope.report.document.anchors import anchors, figure_anchor
from fp8scope.report.document.blocks import Document, Figure, Table
from fp8scope.report.document.drawing import figure_json, inert_json
from fp8scope.report.document.plotlyjs import plotly_js
from fp8scope.report.document.words import parts, plain
from fp8scope.report.palette import palette

_FIRST = "document.documentElement.classList.add('js')"
_SCRIPTS = ("links", "tables", "listings", "search", "figures", "start")


def html(document: Document) -> str:
    """The document as one self-contained file. The same document gives the same bytes."""
    scripts = (_FIRST, _own_script(), _plotly())
    page = _environment().get_template("page.html.j2")
    written = page.render(
        document=document,
        known=anchors(document),
        policy=_policy(scripts),
        scripts=[_ours(script) for script in scripts],
        style=_ours(_style()),
        palettes=_ours(inert_json({"light": palette(dark=False), "dark": palette(dark=True)})),
    )
    # half of a surrogate pair has no place in UTF-8
    return written.encode("utf-8", "replace").decode("utf-8")


def _ours(text: str) -> Markup:
    """Text that is not escaped: what was written here, and JSON that has been made inert."""
    return Markup(text)  # noqa: S704


def _policy(scripts: tuple[str, ...]) -> str:
    sources = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    # plotly sets styles; its pictures are data: while drawn and blob: when saved
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fp8scope.report.document", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_readable,
    )
    environment.filters |= {
        "kind": lambda part: type(part).__name__.lower(),
        "parts": parts,
        "plain": plain,
        "fragment": lambda anchor: quote(printable(anchor), safe="", errors="replace"),
        "figure_anchor": figure_anchor,
        "figure_json": _figure_json,
        "lines": _lines,
    }
    environment.globals["ranks"] = ranks
    return environment


def _figure_json(figure: Figure) -> Markup:
    return _ours(figure_json(figure))


def _lines(text: str) -> Markup:
    """Text to copy: its lines and tabs are part of it."""
    lines = ("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
    return Markup("\n").join(lines)


def _readable(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def ranks(table: Table, column: int) -> str:
    """The order of a column's numbers, as short as it can be said: 0 is the smallest.

    Nothing stands where there is no number, and "" if the column has none at all.
    """
    numbers = [row.cells[column].sort for row in table.rows]
    known = [number for number in numbers if number is not None and not isnan(number)]
    places = {number: place for place, number in enumerate(sorted(set(known)))}
    written = [str(places.get(number, "")) if number is not None else "" for number in numbers]
    return ",".join(written) if known else ""


@cache
def _own_script() -> str:
    return "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)


@cache
def _style() -> str:
    def variables(colours: Mapping[str, Any]) -> str:
        plain_ones = {name: value for name, value in colours.items() if isinstance(value, str)}
        return "".join(f"--{name.removeprefix('@')}:{plain_ones[name]};" for name in _NAMES)

    light, dark = variables(palette(dark=False)), variables(palette(dark=True))
    asked = "@media screen and (prefers-color-scheme:dark)"
    return f":root{{{light}}}{asked}{{:root{{{dark}}}}}\n{_asset('report.css')}"


_NAMES = ("@text", "@dim", "@grid", "@paper", "@main", "@accent")


@cache
def _plotly() -> str:
    """plotly.js as it may stand inside a page."""
    source = plotly_js()
    try:
        script = source.read_text(encoding="utf-8")  # also makes \r\n one line's end, as HTML does
    except OSError as error:
        raise Missing(f"{source} cannot be read: {error.strerror}", "reinstall plotly") from error
    # what would end the script's element means the same to JavaScript when it is written so
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _asset(name: str) -> str:
    return (files("fp8scope.report.document") / "assets" / name).read_text(encoding="utf-8")
