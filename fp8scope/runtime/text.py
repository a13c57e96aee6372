"""Documents → token sequences: what a scan, a measurement or a parity run reads.

- A sequence comes from one document. Nothing is packed: attention across a seam between two
  documents would show numbers that no real request produces.
- Every sequence starts with BOS where the tokenizer has one, windows after the first too, because
  the first token is where many models put their largest activations.
- The tags share the sequences equally, and a seeded choice is made within each (`_choose`).
- Same text, tokenizer and settings give the same `Calibration.digest`, on any machine.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fp8scope.errors import BadInput, BadModel, BadText
from fp8scope.runtime.sources import Document, Documents, Source, read_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_SEQUENCES = 2
MIN_TOKENS = 128
# Longer texts are tokenized in pieces: an encoding takes some hundred bytes per character.
_PIECE_CHARACTERS = 1 << 18

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Sample:
    """One sequence, as the model reads it.

    `index` counts all samples from 0; `tag` and `source` are indices into the calibration's
    `tags` and `sources`; `document` is the line or row in the source, from 1, and `window` the
    window within that document, from 0. `tokens` is int32 [length], 2 ≤ length ≤ seq_len, read
    only; `digest` is their BLAKE2b, 16 hex characters.
    """

    index: int
    tag: int
    source: int
    document: int
    window: int
    tokens: Tokens = field(compare=False, repr=False)
    digest: str


@dataclass(frozen=True)
class SourceRecord:
    """What was read: `tag` is the source's own, `documents` their count, `sha256` the content's."""

    location: str
    tag: str
    sha256: str
    documents: int


@dataclass(frozen=True)
class Calibration:
    """The sequences of a scan, in the order of the tags and within a tag in the text's order.

    `tags` are in order of first appearance. `requested` is what was asked for, (samples,
    seq_len), before it was clamped to `seq_len` and to the text at hand; `notes` has a sentence
    for the person per clamp. `digest` covers tags, samples and settings, not file names.
    """

    tags: tuple[str, ...]
    sources: tuple[SourceRecord, ...]
    samples: tuple[Sample, ...]
    seq_len: int
    requested: tuple[int, int]
    seed: int
    notes: tuple[str, ...]
    digest: str

    @property
    def tokens(self) -> int:
        """Tokens of all samples, each one's BOS included."""
        return sum(len(sample.tokens) for sample in self.samples)


@dataclass(frozen=True)
class _Window:
    source: int
    document: int
    number: int
    tokens: Tokens


def build_calibration(
    sources: Sequence[Source],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    samples: int = 512,
    seq_len: int = 2048,
    seed: int = 0,
    context: int | None,
    vocab_size: int | None = None,
) -> Calibration:
    """Read the sources and choose up to `samples` sequences of up to `seq_len` tokens.

    `context` is the longest sequence the model takes, None if it has no limit; `vocab_size` the
    rows of its embedding, to tell a foreign tokenizer.

    Raises BadText (unreadable, no chat template, a tag without text, too little in all),
    BadModel (a token the model does not have), BadInput (settings) and Missing (`datasets`).
    """
    notes: list[str] = []
    length = seq_len if context is None else min(seq_len, context)
    _check_settings(samples, length, seed)
    if length < seq_len:
        notes.append(
            f"asked for sequences of {seq_len} tokens, the model takes {length}: using {length}"
        )
    contents = read_sources(sources)
    windows, dropped = _all_windows(contents, tokenizer, length, vocab_size)
    blank = sum(content.blank for content in contents)
    if blank + dropped:
        notes.append(f"{blank + dropped} documents are empty or a single token: left out")
    _check_tags(windows, samples)
    notes += _clamps(windows, samples, length)
    shares = share_out(samples, [len(of_tag) for of_tag in windows.values()])
    chosen = _number(
        [
            [of_tag[place] for place in _choose(len(of_tag), share, seed, tag)]
            for (tag, of_tag), share in zip(windows.items(), shares, strict=True)
        ]
    )
    _check_amount(chosen)
    return Calibration(
        tags=tuple(windows),
        sources=tuple(
            SourceRecord(c.source.location, c.source.default_tag, c.sha256, len(c.documents))
            for c in contents
        ),
        samples=chosen,
        seq_len=length,
        requested=(samples, seq_len),
        seed=seed,
        notes=tuple(notes),
        digest=_digest_of_all(tuple(windows), chosen, [samples, seq_len, length, seed]),
    )


# --- tokens ------------------------------------------------------------------------------------


def _all_windows(
    contents: Sequence[Documents],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    vocab_size: int | None,
) -> tuple[dict[str, list[_Window]], int]:
    """Windows per tag, tags in order of first appearance; and how many documents had none."""
    bos: int | None = tokenizer.bos_token_id
    windows: dict[str, list[_Window]] = {}
    dropped = 0
    with _no_length_warning():
        for source, content in enumerate(contents):
            for document in content.documents:
                tokens = _tokenize(document, tokenizer)
                _check_vocabulary(tokens, bos, vocab_size)
                cut = cut_windows(tokens, length, bos)
                dropped += not cut
                windows.setdefault(document.tag, []).extend(
                    _Window(source, document.number, number, window)
                    for number, window in enumerate(cut)
                )
    return windows, dropped


def _tokenize(document: Document, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    """Token ids of one document, int32 [n], with no special tokens but those it spells out."""
    if document.text is None:
        return np.asarray(_apply_template(document, tokenizer), dtype=np.int32)
    pieces = [
        np.asarray(tokenizer(piece, add_special_tokens=False)["input_ids"], dtype=np.int32)
        for piece in _pieces(document.text)
    ]
    return np.concatenate(pieces)


def _pieces(text: str) -> Iterator[str]:
    """Cut a very long text after a newline, else before a space: one seam in 2¹⁸ characters."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        limit = start + _PIECE_CHARACTERS
        end = text.rfind("\n", start, limit) + 1
        if end <= start:
            end = text.rfind(" ", start + 1, limit)
        end = end if end > start else limit
        yield text[start:end]
        start = end
    yield text[start:]


def _apply_template(document: Document, tokenizer: "PreTrainedTokenizerBase") -> Any:
    where = f"{document.location}:{document.number}"
    messages: Any = [dict(message) for message in document.messages or ()]
    try:
        # transformers 5 gives a BatchEncoding unless told not to.
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    except Exception as error:  # a template is code of the model's authors: it raises what it likes
        if not getattr(tokenizer, "chat_template", None):
            raise BadText(
                f"{where} holds chat messages, and the tokenizer has no chat template",
                'take the tokenizer of the instruct model, or give rendered prompts as "text"',
            ) from error
        raise BadText(
            f"the chat template refuses {where}: {' '.join(str(error).split())[:200]}",
            "check the order and the roles of the messages",
        ) from error


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


@contextmanager
def _no_length_warning() -> Iterator[None]:
    """Tokenizers warn about texts longer than the context; here they are cut afterwards."""
    logger = logging.getLogger("transformers.tokenization_utils_base")

    def other(record: logging.LogRecord) -> bool:
        return "sequence length is longer" not in str(record.msg)

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


# --- choice ------------------------------------------------------------------------------------


def share_out(wanted: int, available: Sequence[int]) -> list[int]:
    """Share `wanted` equally among those with `available` pieces each.

    What one cannot use goes to the others, a remainder to the first ones. The shares add up to
    min(wanted, sum(available)).
    """
    shares = [0] * len(available)
    left = min(wanted, sum(available))
    while left:
        open_ = [i for i, most in enumerate(available) if shares[i] < most]
        each = left // len(open_)
        if not each:  # the remainder
            open_, each = open_[:left], 1
        for i in open_:
            more = min(each, available[i] - shares[i])
            shares[i] += more
            left -= more
    return shares


def _choose(available: int, share: int, seed: int, tag: str) -> list[int]:
    """Which windows of a tag to take, in the text's order.

    Each window draws a number from a generator seeded with the seed and the tag's name; the
    `share` smallest are taken. So the choice does not depend on the other tags: adding one
    changes this tag's share at most, and a smaller share is a part of a larger one.
    """
    if share >= available:
        return list(range(available))
    name = int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=8).digest(), "little")
    draws = np.random.Generator(np.random.PCG64([seed, name])).random(available)
    return sorted(int(place) for place in np.argsort(draws, kind="stable")[:share])


def _number(chosen: Sequence[Sequence[_Window]]) -> tuple[Sample, ...]:
    samples: list[Sample] = []
    for tag, windows in enumerate(chosen):
        for window in windows:
            ids = window.tokens.astype("<i4").tobytes()
            digest = hashlib.blake2b(ids, digest_size=8).hexdigest()
            origin = (window.source, window.document, window.number)
            samples.append(Sample(len(samples), tag, *origin, window.tokens, digest))
    return tuple(samples)


def _digest_of_all(tags: tuple[str, ...], samples: Sequence[Sample], settings: list[int]) -> str:
    content = [tags, [(sample.tag, sample.digest) for sample in samples], settings]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


# --- words and refusals ------------------------------------------------------------------------


def _clamps(windows: dict[str, list[_Window]], samples: int, length: int) -> list[str]:
    notes = []
    counts = {tag: len(of_tag) for tag, of_tag in windows.items()}
    total, share = sum(counts.values()), samples // len(counts)
    if total < samples:
        notes.append(f"asked for {samples} sequences, the text holds {total}: using all of it")
    else:
        notes += [
            f"tag {tag} holds {count} sequences of its share of {share}: the others take the rest"
            for tag, count in counts.items()
            if count < share
        ]
    longest = max(len(window.tokens) for of_tag in windows.values() for window in of_tag)
    if longest < length:
        notes.append(f"no document fills a sequence of {length} tokens, the longest has {longest}")
    return notes


def _check_settings(samples: int, seq_len: int, seed: int) -> None:
    if samples < MIN_SEQUENCES:
        raise BadInput(f"{samples} samples are too few", f"--samples {MIN_SEQUENCES} or more")
    if seq_len < 2:
        raise BadInput(f"a sequence of {seq_len} tokens is too short", "--seq-len 2 or more")
    if seed < 0:
        raise BadInput(f"the seed is {seed}", "--seed 0 or more")


def _check_vocabulary(tokens: Tokens, bos: int | None, vocab_size: int | None) -> None:
    largest = max(int(tokens.max(initial=0)), bos or 0)
    if vocab_size is not None and largest >= vocab_size:
        raise BadModel(
            "tokenizer and model do not belong together: "
            f"token id {largest}, and the model has {vocab_size} tokens",
            "use the tokenizer that came with the model",
        )


def _check_tags(windows: dict[str, list[_Window]], samples: int) -> None:
    for tag, of_tag in windows.items():
        if not of_tag:
            raise BadText(
                f"tag {tag} holds no sequence of 2 tokens or more", "give it more text, or drop it"
            )
    if samples < len(windows):
        raise BadText(
            f"{samples} samples cannot cover {len(windows)} tags", f"--samples {len(windows)}"
        )


def _check_amount(samples: Sequence[Sample]) -> None:
    tokens = sum(len(sample.tokens) for sample in samples)
    if len(samples) >= MIN_SEQUENCES and tokens >= MIN_TOKENS:
        return
    sequences = f"{len(samples)} sequence{'s' if len(samples) > 1 else ''}"
    raise BadText(
        f"only {tokens} tokens of text in {sequences}, "
        f"a scan needs at least {MIN_TOKENS} in {MIN_SEQUENCES}",
        "give more text"
        + (", or lower --seq-len" if tokens >= MIN_TOKENS else ", or raise --samples or --seq-len"),
    )
