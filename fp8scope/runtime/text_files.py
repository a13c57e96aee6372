"""Local files of text: which are read, their bytes as text, and the rows of .jsonl and .json."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fp8scope.errors import BadText
from fp8scope.runtime.documents import BadRowError

# Read as one document, like a file without an extension.
_PLAIN = (
    "txt text md markdown rst adoc org tex log html htm xml yaml yml toml ini cfg sh bash sql "
    "py pyi c h cc cpp cxx hpp cu cuh rs go java kt scala cs swift js jsx ts tsx css rb php pl "
    "lua r jl hs ml ex erl clj el vim proto"
)


def check_suffix(path: Path) -> None:
    """Refuse (BadText) a file that, by its extension, is neither rows nor plain text."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix and suffix not in f"jsonl json parquet {_PLAIN}".split():
        raise BadText(
            f"{path} is of a kind that is not read (.{suffix})",
            "give .txt, .md, source code, .jsonl, .json or .parquet; rename other plain text .txt",
        )


def read_text(path: Path) -> tuple[str, str]:
    """The text of a UTF-8 file and the SHA-256 of its bytes. Raises BadText, OSError."""
    data = path.read_bytes()
    nul = data.find(b"\0")
    if nul >= 0:
        raise BadText(
            f"{path} is a binary file (a NUL at byte {nul})",
            "give UTF-8 text (.txt, .md, …), .jsonl or .parquet",
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff"), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as error:
        raise BadText(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}",
            "convert it, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error


def json_entries(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """The entries of the one list that a .json file holds, numbered from 1."""
    try:
        entries = parse_json(text)
    except BadRowError as error:
        raise BadText(
            f"{path} {error}", "repair it; with one object per line, name it .jsonl"
        ) from (error)
    if not isinstance(entries, list):
        raise BadText(
            f"{path} holds a JSON {type(entries).__name__}, not a list of texts",
            'give a list of strings or of objects with "text" or "messages"',
        )
    return enumerate(entries, start=1)


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, numbered from 1.

    Not `str.splitlines`: it also breaks at U+2028 and friends, which JSON strings may hold.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def parse_json(text: str) -> object:
    """The value that JSON text spells. Raises BadRowError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadRowError(f"is not JSON ({error.msg} at {where}column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"is not JSON that can be read ({error})") from error
