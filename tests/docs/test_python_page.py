"""docs/reference/python.md has every public name, with the signature that it has.

After a wanted change: UPDATE_GOLDEN=1 pytest tests/docs/test_python_page.py, and read the diff.
"""

from __future__ import annotations

import inspect
import os
import re

import fp8scope
from tests.docs import pages

PAGE = pages.DOCS / "reference" / "python.md"
MARK = re.compile(r"<!-- signature: (\w+) -->\n(```text\n.*?```\n)?", re.S)
WIDTH = 90


def signature(name: str) -> str:
    """How it is called; on one line where that fits."""
    called = inspect.signature(getattr(fp8scope, name))
    parts: list[str] = []
    for one in called.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(_parameter(one))
    gives = "" if called.return_annotation in {"None", None} else f" -> {called.return_annotation}"
    line = f"fp8scope.{name}({', '.join(parts)}){gives}"
    if len(line) <= WIDTH:
        return line
    return f"fp8scope.{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){gives}"


def _parameter(one: inspect.Parameter) -> str:
    annotation = one.annotation.__name__ if isinstance(one.annotation, type) else one.annotation
    text = f"{one.name}: {annotation}"
    if one.default is one.empty:
        return text
    plain = isinstance(one.default, str | int | float | tuple | None)
    return f"{text} = {one.default!r}" if plain else f"{text} = …"


def filled(found: re.Match[str]) -> str:
    return f"<!-- signature: {found[1]} -->\n```text\n{signature(found[1])}\n```\n"


def test_every_name_is_there_as_it_is() -> None:
    page = PAGE.read_text()
    wanted = MARK.sub(filled, page)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(wanted)
        page = wanted
    assert page == wanted
    names = [found[1] for found in MARK.finditer(page)]
    assert sorted(names) == sorted(set(fp8scope.__all__) - {"__version__"})
