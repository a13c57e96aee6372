"""What `--calib` names, read into tagged documents.

One argument is `[TAG=]LOCATION`. The location decides the format:

- `*.jsonl`: a document per line, an object with `text` or with chat `messages`; an optional `tag`
  overrides the source's.
- `*.parquet` and `hf:NAME[:SPLIT]` (a hub dataset, or a local dataset folder): a document per row,
  with the same fields as columns. They need the `[datasets]` extra.
- any other file: one document, as UTF-8 text.

Nothing is guessed and nothing unreadable is skipped: text that is not what the user meant would
give a profile of other traffic. Blank lines and blank texts carry no tokens and are left out.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fp8scope.errors import BadText
from fp8scope.runtime.documents import BadRowError, Document, content_sha256, read_rows
from fp8scope.runtime.hub_datasets import Rows, hub_rows, parquet_rows
from fp8scope.runtime.locations import HUB, exists, split_hub_name

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
        if location.startswith(HUB):
            location = split_hub_name(location)[0]
        return Path(location).stem or location


@dataclass(frozen=True)
class Documents:
    """All documents of one source, in its order.

    `sha256` is that of the file's bytes, for a hub dataset that of the content read.
    `blank` counts the lines or rows whose text was empty.
    """

    source: Source
    documents: tuple[Document, ...]
    sha256: str
    blank: int = 0


def parse_source(argument: str) -> Source:
    """Split `[TAG=]LOCATION`.

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
        raise BadText(f"--calib {argument!r} names no file", "write --calib [TAG=]FILE")
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

    Raises BadText (no such file, a folder, binary, not UTF-8, empty, bad lines) and Missing
    (the `datasets` package, or the network for a hub dataset).
    """
    if source.location.startswith(HUB):
        return _read_hub(source)
    path = Path(source.location)
    if path.is_dir():
        raise BadText(
            f"{path} is a folder", f"give a file in it, or {HUB}{path} if it is a dataset"
        )
    if not exists(source.location):
        raise BadText(
            f"no such file: {path}", f"check the path; a hub dataset is written {HUB}NAME[:SPLIT]"
        )
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(source, path)
        data = path.read_bytes()
    except OSError as error:
        raise BadText(f"cannot read {path}: {error.strerror}", "check the file") from error
    sha256 = hashlib.sha256(data).hexdigest()
    text = _decode(path, data)
    del data  # a large text should not be held twice
    if suffix == ".jsonl":
        return _read_jsonl(source, text, sha256)
    if not text.strip():
        raise BadText(f"{path} holds no text", "give a file with text like your traffic")
    document = Document(text, None, source.default_tag, source.location, 1)
    return Documents(source, (document,), sha256)


def _decode(path: Path, data: bytes) -> str:
    nul = data.find(b"\0")
    if nul >= 0:
        raise BadText(
            f"{path} is a binary file (a NUL at byte {nul})",
            "give UTF-8 text (.txt, .md, …), .jsonl or .parquet",
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadText(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}",
            "convert it, for example with: iconv -f LATIN1 -t UTF-8",
        ) from error


def _read_jsonl(source: Source, text: str, sha256: str) -> Documents:
    documents, blank = read_rows(
        _json_lines(text),
        _parse_json,
        kind="line",
        location=source.location,
        tag=source.default_tag,
    )
    return Documents(source, documents, sha256, blank)


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines: it also breaks at U+2028 and friends, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _parse_json(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRowError(f"is not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"is not JSON that can be read ({error})") from error


def _read_parquet(source: Source, path: Path) -> Documents:
    rows = parquet_rows(path, source.location)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    documents, blank = _dataset_documents(source, rows)
    return Documents(source, documents, sha256, blank)


def _read_hub(source: Source) -> Documents:
    documents, blank = _dataset_documents(source, hub_rows(source.location))
    return Documents(source, documents, content_sha256(documents), blank)


def _dataset_documents(source: Source, rows: Rows) -> tuple[tuple[Document, ...], int]:
    return read_rows(
        rows, lambda row: row, kind="row", location=source.location, tag=source.default_tag
    )
