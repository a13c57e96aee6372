"""Numbered lines or rows, as they were decoded, turned into tagged documents.

Every bad one is counted before the refusal, which spells out the first few.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from fp8scope.errors import BadText

Message = Mapping[str, object]
T = TypeVar("T")
_SHOWN = 3  # bad lines spelled out in the one-line refusal; the others are only counted
_ROW_REMEDY = 'give each {kind} a string "text", or "messages": [{{"role": …, "content": …}}, …]'


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

    @property
    def characters(self) -> int:
        """Length of the text, or of all messages together."""
        if self.text is not None:
            return len(self.text)
        return sum(len(str(message["content"] or "")) for message in self.messages or ())


class BadRowError(ValueError):
    """A line or row that is no document; the text says why."""


def read_rows(
    rows: Iterable[tuple[int, T]],
    parse: Callable[[T], object],
    *,
    kind: str,
    location: str,
    tag: str,
    limit: int | None = None,
) -> tuple[tuple[Document, ...], int]:
    """Documents of numbered rows, and how many rows were blank.

    `parse` raises BadRowError for what it cannot read. `kind` is what the refusal calls a row;
    `tag` is that of the rows that do not bring their own. After `limit` characters no further
    row is asked for.

    Raises BadText when a row is bad or no document is left.
    """
    documents: list[Document] = []
    shown: list[str] = []
    bad = blank = characters = 0
    for number, row in rows:
        try:
            document = _document(parse(row), location, tag, number)
        except BadRowError as error:
            bad += 1
            if bad <= _SHOWN:
                shown.append(f"{location}:{number} {error}")
            continue
        if document is None:
            blank += 1
            continue
        documents.append(document)
        characters += document.characters
        if limit is not None and characters >= limit:
            break
    if bad:
        more = f"; and {bad - _SHOWN} more" if bad > _SHOWN else ""
        count = f"{bad} bad {kind}{'s' if bad > 1 else ''}"
        raise BadText(f"{count}: {'; '.join(shown)}{more}", _ROW_REMEDY.format(kind=kind))
    if not documents:
        raise BadText(f"{location} holds no text", _ROW_REMEDY.format(kind=kind))
    return tuple(documents), blank


def content_sha256(documents: Iterable[Document]) -> str:
    """SHA-256 of what the documents hold, for a source that has no bytes of its own."""
    content = hashlib.sha256()
    for document in documents:
        fields = [document.tag, document.text, document.messages]
        content.update(json.dumps(fields, sort_keys=True, default=str).encode() + b"\n")
    return content.hexdigest()


def _document(row: object, location: str, default_tag: str, number: int) -> Document | None:
    """The document of one row, None when its text is blank."""
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        raise BadRowError(f"is a {type(row).__name__}, not an object")
    tag, text, messages = row.get("tag"), row.get("text"), row.get("messages")
    if tag is None:
        tag = default_tag
    elif not isinstance(tag, str) or not tag.strip() or not tag.isprintable():
        raise BadRowError('has a "tag" that is not a printable string')
    if text is not None and messages is not None:
        raise BadRowError('has both "text" and "messages"')
    if messages is not None:
        return Document(None, _messages(messages), tag, location, number)
    if text is None:
        keys = ", ".join(map(repr, list(row)[:5])) or "nothing"
        raise BadRowError(f'has neither "text" nor "messages" (only {keys})')
    if not isinstance(text, str):
        raise BadRowError(f'has a "text" that is a {type(text).__name__}, not a string')
    _check_encodable(text)
    return Document(text, None, tag, location, number) if text.strip() else None


def _messages(messages: object) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRowError('has "messages" that are not a list with something in it')
    checked = []
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise BadRowError(f"has message {place} that is not an object")
        role, content = message.get("role"), _content(message.get("content"), place)
        # An assistant that only calls tools says nothing: its content is null in real logs.
        says_nothing = content is None and message.get("tool_calls")
        if not isinstance(role, str) or not (isinstance(content, str) or says_nothing):
            raise BadRowError(f'has message {place} without a string "role" and "content"')
        _check_encodable(str(content or ""))
        # Datasets fill the fields that a message lacks with null: templates take them for set.
        given = {key: value for key, value in message.items() if value is not None}
        checked.append({**given, "content": content})
    return tuple(checked)


def _content(content: object, place: int) -> object:
    """A message's content; a list of text parts, as the OpenAI API has it, becomes one string.

    The parts stand on lines of their own, as servers put them for a template of plain strings.
    """
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise BadRowError(f"has message {place} with a part of type {kind}: only text is read")
        texts.append(part["text"])
    return "\n".join(texts)


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError(f"has half a surrogate pair at character {error.start}") from error
