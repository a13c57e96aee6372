"""Foreign text on GitHub: inert in Markdown, and in what GitHub does after Markdown.

Two layers must be quieted. Markdown's own marks are escaped. Then GitHub looks at the finished text
for mentions, references to issues and commits, bare links, emoji names and formulas, where escapes
are no longer seen: an empty comment in the middle of such a word, which is not shown, ends it.
"""

from __future__ import annotations

import re
from html import escape

from fp8scope.core.words import printable

_LIVELY = re.compile(
    r"(@(?=\w)"  # a mention, or the middle of an address
    r"|#(?=\w)"  # an issue
    r"|GH(?=-\d)"
    r"|(?:https?|ftp|mailto|xmpp)(?=:)"
    r"|www(?=\.)"
    r"|:(?=[\w+-]+:))",  # an emoji
    re.IGNORECASE,
)
_COMMIT = re.compile(r"(?<![0-9a-z])[0-9a-f]{7,40}(?![0-9a-z])", re.IGNORECASE)
_SPLIT = "\0"  # stands nowhere in printable text
_MARKS = re.compile(r"[\\`*_\[\]~#]")
_START = re.compile(r"[-+=:]|\d+(?=[.)])")
_PLAIN_CODE = re.compile(r"[^`|\\\s]+(?: [^`|\\\s]+)*")


def text(foreign: str) -> str:
    """Text inside a line of Markdown, also inside a table's row."""
    return _finished(_MARKS.sub(r"\\\g<0>", _broken(foreign)))


def text_in_html(foreign: str) -> str:
    """Text on a line that Markdown takes for HTML, and does not look into."""
    return _finished(_broken(foreign))


def code(foreign: str) -> str:
    """A name or a command inside a line of Markdown, also inside a table's row."""
    shown = printable(foreign)
    # backticks where every Markdown agrees on what they hold
    return f"`{shown}`" if _PLAIN_CODE.fullmatch(shown) else f"<code>{text(foreign)}</code>"


def code_in_html(foreign: str) -> str:
    """A name or a command on a line that Markdown takes for HTML."""
    return f"<code>{text_in_html(foreign)}</code>"


def line(markdown: str) -> str:
    """A line of finished Markdown that begins no list, rule or heading, whatever it begins with."""
    stripped = markdown.strip()
    start = _START.match(stripped)
    if start is None:
        return stripped
    before = start.end() if stripped[0].isdigit() else 0
    return f"{stripped[:before]}\\{stripped[before:]}"


def fenced(foreign: str, language: str) -> str:
    """Text to copy, line by line."""
    lines = ["\t".join(map(printable, part.split("\t"))) for part in foreign.split("\n")]
    longest = max((len(run) for run in re.findall("`+", foreign)), default=0)
    fence = "`" * max(3, longest + 1)
    # GitHub draws some languages (mermaid, math, geojson) instead of showing them
    known = language if language in {"bash", "json", "python", "toml", "yaml"} else ""
    return "\n".join((fence + known, *lines, fence))


def _broken(foreign: str) -> str:
    split = _LIVELY.sub(rf"\1{_SPLIT}", printable(foreign))
    split = _COMMIT.sub(lambda found: _SPLIT.join(re.findall(".{1,6}", found[0])), split)
    return escape(split, quote=False)


def _finished(escaped: str) -> str:
    quiet = escaped.replace("|", "&#124;").replace("$", "<span>$</span>")
    return quiet.replace(_SPLIT, "<!-- -->")
