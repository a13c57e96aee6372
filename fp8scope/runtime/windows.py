"""Documents → windows: sequences of bounded length, each with its place in the text.

A tag of up to `_ALL` characters is tokenized in full. Of a longer one as much is tokenized as
gives `_POOL` times the windows that were asked for: stretches of some `_STRETCH` characters (a
short document is one stretch), in an order that the seed draws. Every stretch has the same chance,
so every window has the same as well; but those of one stretch come together more often than in a
choice among all windows of the text.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from fp8scope.runtime.documents import Document
from fp8scope.runtime.sampling import draw_order
from fp8scope.runtime.sources import Documents
from fp8scope.runtime.tokenizing import (
    Tokens,
    check_vocabulary,
    cut_text,
    no_length_warning,
    tokenize,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALL = 1 << 22
_STRETCH = 1 << 16
_POOL = 2


@dataclass(frozen=True)
class Window:
    """One sequence, and its place: `source` is an index, `document` a line or row from 1,
    `number` counts the windows that were cut from the document, from 0.
    """

    source: int
    document: int
    number: int
    tokens: Tokens


@dataclass(frozen=True)
class Pool:
    """The windows of one tag that a choice is made from, in the text's order.

    `dropped` documents had none. `read` of all `characters` were tokenized.
    """

    windows: tuple[Window, ...]
    dropped: int
    read: int
    characters: int


@dataclass(frozen=True)
class _Stretch:
    """Characters `start` to `stop` of a document; sliced when asked for, to hold a text once."""

    source: int
    document: Document
    start: int = 0
    stop: int | None = None

    @property
    def part(self) -> Document:
        text = self.document.text
        return (
            self.document
            if text is None
            else replace(self.document, text=text[self.start : self.stop])
        )


def all_windows(
    contents: Sequence[Documents],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    vocab_size: int | None,
    samples: int,
    seed: int,
) -> dict[str, Pool]:
    """The pool of every tag, to choose `samples` windows from; tags in order of appearance."""
    cutter = _Cutter(tokenizer, length, vocab_size)
    documents: dict[str, list[_Stretch]] = {}
    for source, content in enumerate(contents):
        for document in content.documents:
            documents.setdefault(document.tag, []).append(_Stretch(source, document))
    with no_length_warning():
        return {tag: _pool(tag, whole, cutter, samples, seed) for tag, whole in documents.items()}


@dataclass(frozen=True)
class _Cutter:
    tokenizer: "PreTrainedTokenizerBase"
    length: int
    vocab_size: int | None

    def cut(self, document: Document) -> list[Tokens]:
        bos: int | None = self.tokenizer.bos_token_id
        tokens = tokenize(document, self.tokenizer)
        check_vocabulary(tokens, bos, self.vocab_size)
        return cut_windows(tokens, self.length, bos)

    def split(self, stretch: _Stretch) -> Iterator[_Stretch]:
        if stretch.document.text is None:  # a conversation is rendered as a whole
            yield stretch
            return
        most = max(_STRETCH, 32 * self.length)  # several windows: few are cut short by its end
        for start, stop in cut_text(stretch.document.text, most):
            yield replace(stretch, start=start, stop=stop)


def _pool(tag: str, stretches: list[_Stretch], cutter: _Cutter, samples: int, seed: int) -> Pool:
    characters = sum(stretch.document.characters for stretch in stretches)
    order, enough = list(range(len(stretches))), math.inf
    if characters > _ALL:
        stretches = [piece for stretch in stretches for piece in cutter.split(stretch)]
        order, enough = draw_order(len(stretches), seed, f"stretches of {tag}"), _POOL * samples
    found: dict[int, list[Tokens]] = {}
    windows = read = 0
    for place in order:
        part = stretches[place].part
        found[place] = cutter.cut(part)
        windows += len(found[place])
        read += part.characters
        if windows >= enough:
            break
    numbered, dropped = _number(stretches, found)
    return Pool(numbered, dropped, read, characters)


def _number(
    stretches: Sequence[_Stretch], found: Mapping[int, list[Tokens]]
) -> tuple[tuple[Window, ...], int]:
    """All windows in the text's order, and how many documents had none."""
    windows: list[Window] = []
    dropped = 0

    def origin(place: int) -> tuple[int, int]:
        return stretches[place].source, stretches[place].document.number

    for (source, document), places in groupby(sorted(found), key=origin):
        cut = [tokens for place in places for tokens in found[place]]
        dropped += not cut
        windows += [Window(source, document, i, tokens) for i, tokens in enumerate(cut)]
    return tuple(windows), dropped


def cut_windows(tokens: Tokens, length: int, bos: int | None) -> list[Tokens]:
    """Cut one document into sequences of at most `length` tokens, each starting with `bos`.

    A BOS that the text brings itself is not doubled. Sequences of fewer than 2 tokens are
    dropped, and a last one shorter than `length` / 8 if it is not the only one: a stub with
    little context before it is not what the model sees in the middle of a text.
    """
    windows: list[Tokens] = []
    start = 0
    while start < len(tokens):
        if bos is None or tokens[start] == bos:
            window = tokens[start : start + length].copy()
            start += length
        else:
            fresh = tokens[start : start + length - 1]
            window = np.concatenate([np.array([bos], dtype=np.int32), fresh])
            start += length - 1
        if len(window) < 2 or (windows and len(window) < length / 8):
            continue
        window.flags.writeable = False
        windows.append(window)
    return windows
