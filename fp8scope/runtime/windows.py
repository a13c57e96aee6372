"""Documents → windows: sequences of bounded length, each with its place in the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fp8scope.runtime.sources import Documents
from fp8scope.runtime.tokenizing import Tokens, check_vocabulary, no_length_warning, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Window:
    """One sequence, and its place: `source` is an index, `document` a line or row from 1,
    `number` counts the windows of the document from 0.
    """

    source: int
    document: int
    number: int
    tokens: Tokens


def all_windows(
    contents: Sequence[Documents],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    vocab_size: int | None,
) -> tuple[dict[str, list[Window]], int]:
    """Windows per tag, tags in order of first appearance; and how many documents had none."""
    bos: int | None = tokenizer.bos_token_id
    windows: dict[str, list[Window]] = {}
    dropped = 0
    with no_length_warning():
        for source, content in enumerate(contents):
            for document in content.documents:
                tokens = tokenize(document, tokenizer)
                check_vocabulary(tokens, bos, vocab_size)
                cut = cut_windows(tokens, length, bos)
                dropped += not cut
                windows.setdefault(document.tag, []).extend(
                    Window(source, document.number, number, window)
                    for number, window in enumerate(cut)
                )
    return windows, dropped


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
