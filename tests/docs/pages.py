"""Pages as sessions: every command that docs/ and README.md show is run, top to bottom.

A page is one session of bash in a folder of its own, with `fp8scope` on the PATH. What is run, and
how its output is compared:

- In a ```console fence, lines that begin with `$ ` are commands (a backslash at the end goes on in
  the next line), and the lines below each are its output, stdout and stderr together. No output
  shown: only the exit code is checked.
- Words must be equal; how lines are broken is no matter. A line `…` stands for any lines, a word
  `…` for any words. Numbers with a point, a comma or a unit may differ by 10%, or by one in the
  last digit (other machines round in another order). Bare integers are counts and names: equal.
- ```python fences are run too, in order, in the page's folder, in one namespace.
- A comment right above a fence says what is special about it:
  `<!-- exit 1 -->`: the last command exits with that; all others with 0.
  `<!-- file NAME -->`: the fence is the text of that file, which is written.
  `<!-- prints -->`: the fence is what the ```python fence before it prints.
  `<!-- not run: why -->`: commands of others that cannot be run here; never one of fp8scope.
  `<!-- needs: Chromium -->`: left out where there is none; the test then counts as skipped.
  `<!-- command N -->`: of the README, run by CI.
- `<!-- given: profile.h5 my-model … -->` anywhere on the page: what the reader has before the first
  command; tests/docs/reader.py makes it.
- Anything else that looks like a command to type stands in no other fence, and inline code that
  begins with `fp8scope` is parsed (tests/docs/test_shown.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)(`{3,})([\w-]*) *$")
COMMENT = re.compile(r"^ *<!-- *(.*?) *-->$")
GIVEN = re.compile(r"<!-- given: (.*?) -->")


@dataclass(frozen=True)
class Fence:
    """Text between ```; `note` is the comment right above it."""

    path: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    def noted(self, word: str) -> str | None:
        """What follows this word in the note, or None."""
        found = re.fullmatch(rf"{word}:? ?(.*)", self.note)
        return found[1] if found else None


@dataclass(frozen=True)
class Command:
    line: int
    text: str
    shown: tuple[str, ...]  # its output on the page


def markdown(folder: str = "") -> list[Path]:
    """The pages of docs/ (below `folder`), by name; the README first."""
    pages = sorted((DOCS / folder).rglob("*.md"))
    return pages if folder else [ROOT / "README.md", *pages]


def name(path: Path) -> str:
    """What a page is called in the output of the tests."""
    return str(path.relative_to(ROOT))


def given(path: Path) -> list[str]:
    """What the page says the reader has."""
    return [word for words in GIVEN.findall(path.read_text()) for word in words.split()]


def fences(path: Path) -> Iterator[Fence]:
    """All fences of a page, in order."""
    lines = path.read_text().splitlines()
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if opened is None:
            at += 1
            continue
        indent, ticks, language = opened.groups()
        end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == ticks), None)
        assert end is not None, f"{path}:{at + 1}: this fence is never closed"
        above = COMMENT.match(lines[at - 1]) if at else None
        body = "".join(f"{line.removeprefix(indent)}\n" for line in lines[at + 1 : end])
        yield Fence(path, at + 1, language, above[1] if above else "", body)
        at = end + 1


def commands(fence: Fence) -> list[Command]:
    """The commands of a console fence, with the output shown for each."""
    found: list[Command] = []
    goes_on = False
    for number, line in enumerate(fence.text.splitlines(), fence.line + 1):
        if goes_on:
            last = found.pop()
            found.append(Command(last.line, f"{last.text}\n{line}", ()))
        elif line.startswith("$ "):
            found.append(Command(number, line.removeprefix("$ "), ()))
        else:
            assert found, f"{fence.path}:{number}: output before the first command"
            last = found.pop()
            found.append(Command(last.line, last.text, (*last.shown, line)))
            continue
        goes_on = line.endswith("\\")
    assert found, f"{fence}: a console fence without a command"
    return found
