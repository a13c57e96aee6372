"""What `--calib` names, read into tagged documents.

One argument is `[TAG=]LOCATION`. The location decides the format:

- `*.jsonl`: a document per line, an object with `text` or with chat `messages`; an optional `tag`
  overrides the source's. A line may also be a string, which is the text.
- `*.json`: a list of such objects or strings, a document per entry.
- `*.parquet` and `hf:NAME[:[CONFIG:]SPLIT]` (a hub data set, or a local folder of one): a document
  per row, with the same fields as columns. They need the `[datasets]` extra.
- `*.txt`, `*.md`, source code and files without an extension: one document, as UTF-8 text.

A hub data set is streamed, from its first row to `HUB_CHARACTERS` of text, unless a slice of the
split is named, such as `train[:5000]`: that is read whole.

Nothing is guessed and nothing unreadable is skipped: text that is not what the user meant would
give a profile of other traffic. Blank lines and blank texts carry no tokens and are left out.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from fp8scope.errors import BadText
from fp8scope.runtime.documents import Document, content_sha256, read_rows
from fp8scope.runtime.hub_datasets import hub_rows, parquet_rows
from fp8scope.runtime.locations import HUB, HUB_SYNTAX, exists, parse_hub_name, printable
from fp8scope.runtime.text_files import check_suffix, json_entries, lines, parse_json, read_text

T = TypeVar("T")
HUB_CHARACTERS = 1 << 25  # some 8 million tokens of English
_PLAIN_TAG = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Source:
    """One `--calib` argument. Without a `tag`, the name of the location is the tag."""

    tag: str | None
    location: str

    @property
    def default_tag(self) -> str:
        """The tag of documents that do not bring their own."""
        if self.tag is not None:
            return self.tag
        location = self.location
        if location.startswith(HUB) and (name := parse_hub_name(location)):
            location = name.name
        return printable(Path(location).stem or location)


@dataclass(frozen=True)
class Documents:
    """All documents of one source, in its order.

    `sha256` is that of the file's bytes, for a hub data set that of the content read.
    `blank` counts the lines or rows whose text was empty; `notes` says what was not read.
    """

    source: Source
    documents: tuple[Document, ...]
    sha256: str
    blank: int = 0
    notes: tuple[str, ...] = ()


def parse_source(argument: str, option: str = "--calib") -> Source:
    """Split `[TAG=]LOCATION`, as it was given to `option`.

    A path may hold a `=` itself: what precedes the first one is a tag only if it is plain
    (letters, digits, `_`, `.`, `-`) and no file has the whole argument as its name.

    Raises BadText when the location is empty.
    """
    tag, equals, location = argument.partition("=")
    if not equals or not _PLAIN_TAG.fullmatch(tag) or exists(argument):
        source = Source(None, argument)
    else:
        source = Source(tag, location)
    if source.location in {"", HUB}:
        raise BadText(f"{option} {argument!r} names no file", f"write {option} [TAG=]FILE")
    return source


def read_sources(sources: Sequence[Source]) -> tuple[Documents, ...]:
    """Read every source, in order.

    The same content given twice is refused (BadText): it would count double in every statistic.
    """
    if not sources:
        raise BadText("no calibration text was given", "add --calib [TAG=]FILE")
    seen: dict[str, str] = {}
    read: list[Documents] = []
    for source in sources:
        documents = read_documents(source)
        earlier = seen.setdefault(documents.sha256, source.location)
        if len(seen) == len(read):
            what = (
                f"{source.location} is given twice"
                if earlier == source.location
                else f"{source.location} holds the same text as {earlier}"
            )
            raise BadText(what, "give each text once")
        read.append(documents)
    return tuple(read)


def read_documents(source: Source) -> Documents:
    """Read one source.

    Raises BadText (no such file, a folder, of no known kind, binary, not UTF-8, empty, bad
    lines) and Missing (the `datasets` package, or the network for a hub data set).
    """
    if source.location.startswith(HUB):
        return _read_hub(source)
    path = _existing_file(source.location)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(source, path)
        text, sha256 = read_text(path)
    except OSError as error:
        raise BadText(f"cannot read {path}: {error.strerror}", "check the file") from error
    if suffix == ".jsonl":
        return _of_rows(source, lines(text), sha256, kind="line", parse=parse_json)
    if suffix == ".json":
        return _of_rows(source, json_entries(path, text), sha256, kind="entry")
    if not text.strip():
        raise BadText(f"{path} holds no text", "give a file with text like your traffic")
    document = Document(text, None, source.default_tag, source.location, 1)
    return Documents(source, (document,), sha256)


def _existing_file(location: str) -> Path:
    path = Path(location)
    if not exists(location):
        remedy = f"check the path; a hub data set is written {HUB_SYNTAX}"
        if "=" in location:
            remedy = "check the path; a tag before = is of letters, digits, `_`, `.` and `-`"
        raise BadText(f"no such file: {path}", remedy)
    if path.is_dir():
        raise BadText(
            f"{path} is a folder", f"give a file in it, or {HUB}{path} if it is a data set"
        )
    check_suffix(path)
    return path


def _read_parquet(source: Source, path: Path) -> Documents:
    rows = parquet_rows(path, source.location)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return _of_rows(source, rows, sha256, kind="row")


def _read_hub(source: Source) -> Documents:
    name = parse_hub_name(source.location)
    if name is None:
        raise BadText(f"{source.location} is no name of a data set", f"write {HUB_SYNTAX}")
    limit = HUB_CHARACTERS if name.is_whole else None
    read = _of_rows(source, hub_rows(name, source.location), "", kind="row", limit=limit)
    notes: tuple[str, ...] = ()
    if limit and sum(document.characters for document in read.documents) >= limit:
        last = read.documents[-1].number
        notes = (f"{source.location} is read up to row {last}: a slice, [{last}:], goes on there",)
    return replace(read, sha256=content_sha256(read.documents), notes=notes)


def _of_rows(
    source: Source,
    rows: Iterable[tuple[int, T]],
    sha256: str,
    *,
    kind: str,
    parse: Callable[[T], object] = lambda row: row,
    limit: int | None = None,
) -> Documents:
    documents, blank = read_rows(
        rows, parse, kind=kind, location=source.location, tag=source.default_tag, limit=limit
    )
    return Documents(source, documents, sha256, blank)
