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
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fp8scope.errors import BadText, Missing

Message = Mapping[str, object]
T = TypeVar("T")
_PLAIN_TAG = re.compile(r"[A-Za-z0-9_.-]+")
_HUB = "hf:"
_SHOWN = 3  # bad lines spelled out in the one-line refusal; the others are only counted
_ROW_REMEDY = 'give each {kind} a string "text", or "messages": [{{"role": …, "content": …}}, …]'


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
        if location.startswith(_HUB):
            location = _split_hub_name(location)[0]
        return Path(location).stem or location


@dataclass(frozen=True)
class Document:
    """One text of the traffic: either plain `text` or chat `messages`, the other is None.

    `number` is the line of a .jsonl or the row of a dataset, from 1; a text file is number 1.
    """

    text: str | None
    messages: tuple[Message, ...] | None
    tag: str
    location: str
    number: int


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


class _BadRowError(ValueError):
    """A line or row that is no document; the text says why."""


def parse_source(argument: str) -> Source:
    """Split `[TAG=]LOCATION`.

    A path may hold a `=` itself: what precedes the first one is a tag only if it is plain
    (letters, digits, `_`, `.`, `-`) and no file has the whole argument as its name.

    Raises BadText when the location is empty.
    """
    tag, equals, location = argument.partition("=")
    if not equals or not _PLAIN_TAG.fullmatch(tag) or _exists(argument):
        source = Source(None, argument)
    else:
        source = Source(tag, location)
    if source.location in {"", _HUB}:
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
    if source.location.startswith(_HUB):
        return _read_hub(source)
    path = Path(source.location)
    if path.is_dir():
        raise BadText(
            f"{path} is a folder", f"give a file in it, or {_HUB}{path} if it is a dataset"
        )
    if not _exists(source.location):
        raise BadText(
            f"no such file: {path}", f"check the path; a hub dataset is written {_HUB}NAME[:SPLIT]"
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
        return _collect(source, "line", _json_lines(text), _parse_json, sha256)
    if not text.strip():
        raise BadText(f"{path} holds no text", "give a file with text like your traffic")
    document = Document(text, None, source.default_tag, source.location, 1)
    return Documents(source, (document,), sha256)


def _exists(location: str) -> bool:
    try:
        return Path(location).exists()
    except OSError:  # longer than a file name can be
        return False


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


# --- lines and rows ----------------------------------------------------------------------------


def _json_lines(text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines: it also breaks at U+2028 and friends, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _parse_json(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _BadRowError(f"is not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise _BadRowError(f"is not JSON that can be read ({error})") from error


def _collect(
    source: Source,
    kind: str,
    rows: Iterable[tuple[int, T]],
    parse: Callable[[T], object],
    sha256: str | None,
) -> Documents:
    """Turn numbered rows into documents. Without `sha256`, the content itself is hashed."""
    documents: list[Document] = []
    shown: list[str] = []
    bad = blank = 0
    content = hashlib.sha256()
    for number, row in rows:
        try:
            document = _document(parse(row), source, number)
        except _BadRowError as error:
            bad += 1
            if bad <= _SHOWN:
                shown.append(f"{source.location}:{number} {error}")
            continue
        if document is None:
            blank += 1
            continue
        documents.append(document)
        if sha256 is None:
            fields = [document.tag, document.text, document.messages]
            content.update(json.dumps(fields, sort_keys=True, default=str).encode() + b"\n")
    if bad:
        more = f"; and {bad - _SHOWN} more" if bad > _SHOWN else ""
        count = f"{bad} bad {kind}{'s' if bad > 1 else ''}"
        raise BadText(f"{count}: {'; '.join(shown)}{more}", _ROW_REMEDY.format(kind=kind))
    if not documents:
        raise BadText(f"{source.location} holds no text", _ROW_REMEDY.format(kind=kind))
    return Documents(source, tuple(documents), sha256 or content.hexdigest(), blank)


def _document(row: object, source: Source, number: int) -> Document | None:
    """The document of one row, None when its text is blank."""
    if not isinstance(row, dict):
        raise _BadRowError(f"is a {type(row).__name__}, not an object")
    tag, text, messages = row.get("tag"), row.get("text"), row.get("messages")
    if tag is None:
        tag = source.default_tag
    elif not isinstance(tag, str) or not tag.strip() or not tag.isprintable():
        raise _BadRowError('has a "tag" that is not a printable string')
    if text is not None and messages is not None:
        raise _BadRowError('has both "text" and "messages"')
    if messages is not None:
        return Document(None, _messages(messages), tag, source.location, number)
    if text is None:
        keys = ", ".join(map(repr, list(row)[:5])) or "nothing"
        raise _BadRowError(f'has neither "text" nor "messages" (only {keys})')
    if not isinstance(text, str):
        raise _BadRowError(f'has a "text" that is a {type(text).__name__}, not a string')
    _check_encodable(text)
    return Document(text, None, tag, source.location, number) if text.strip() else None


def _messages(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise _BadRowError('has "messages" that are not a list with something in it')
    checked = []
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise _BadRowError(f"has message {place} that is not an object")
        role, content = message.get("role"), message.get("content")
        # An assistant that only calls tools says nothing: its content is null in real logs.
        says_nothing = content is None and message.get("tool_calls")
        if not isinstance(role, str) or not (isinstance(content, str) or says_nothing):
            raise _BadRowError(f'has message {place} without a string "role" and "content"')
        _check_encodable(content or "")
        # Datasets fill the fields that a message lacks with null: templates take them for set.
        checked.append({k: v for k, v in message.items() if v is not None or k == "content"})
    return tuple(checked)


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRowError(f"has half a surrogate pair at character {error.start}") from error


# --- the `datasets` package --------------------------------------------------------------------


def _read_parquet(source: Source, path: Path) -> Documents:
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if magic != b"PAR1":
        raise BadText(f"{path} is not a parquet file", "check how it was written")
    datasets = _datasets_package(source)
    # Streamed, so that no copy of the file is left in the cache of `datasets`.
    rows = _load(
        source,
        lambda: datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True
        ),
    )
    return _collect(source, "row", rows, lambda row: row, sha256)


def _split_hub_name(location: str) -> tuple[str, str]:
    """`hf:NAME[:SPLIT]` → name and split; the split may be a slice such as `train[:500]`."""
    name = location.removeprefix(_HUB)
    if _exists(name):
        return name, "train"
    name, _, split = name.partition(":")
    return name, split or "train"


def _read_hub(source: Source) -> Documents:
    name, split = _split_hub_name(source.location)
    datasets = _datasets_package(source)

    def load() -> Any:
        folder = Path(name)
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)[split]
        if (folder / "state.json").is_file():  # a single split, written by save_to_disk
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, split=split)

    return _collect(source, "row", _load(source, load), lambda row: row, None)


def _datasets_package(source: Source) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise Missing(
            f"{source.location} needs the package datasets, which is not installed",
            "pip install 'fp8scope[datasets]'",
        ) from error
    return datasets


def _load(source: Source, load: Callable[[], Any]) -> Iterator[tuple[int, Any]]:
    """The rows of a dataset, numbered from 1; whatever `datasets` raises becomes one line."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs, it raises as well
    try:
        yield from enumerate(load(), start=1)
    except ConnectionError as error:
        raise Missing(
            f"{source.location} cannot be fetched: {_one_line(error)}",
            "check the name and the network, or give a local file",
        ) from error
    except Exception as error:  # pyarrow, fsspec, huggingface_hub: each has its own tree
        raise BadText(
            f"{source.location} cannot be read: {_one_line(error)}",
            "check the name and the split, or write its texts to a .jsonl",
        ) from error
    finally:
        logger.setLevel(level)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
