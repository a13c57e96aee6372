"""Documents → token sequences: what a scan, a measurement or a parity run reads.

- A sequence comes from one document. Nothing is packed: attention across a seam between two
  documents would show numbers that no real request produces.
- Every sequence starts with BOS where the tokenizer has one, windows after the first too, because
  the first token is where many models put their largest activations.
- The tags share the sequences equally, and a seeded choice is made within each (`sampling`);
  of a tag with more than 4 million characters, from a part of them (`windows`).
- Same text, tokenizer and settings give the same `Calibration.digest`, on any machine.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fp8scope.errors import BadInput, BadText
from fp8scope.runtime.locations import printable
from fp8scope.runtime.sampling import choose, share_out
from fp8scope.runtime.sources import Documents, Source, read_sources
from fp8scope.runtime.tokenizing import Tokens
from fp8scope.runtime.windows import Pool, Window, all_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_SEQUENCES = 2
MIN_TOKENS = 128


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
    """What was read: `tag` is the source's own, `documents` their count, `sha256` the content's.

    For tokens in memory `sha256` is the calibration's digest.
    """

    location: str
    tag: str
    sha256: str
    documents: int


@dataclass(frozen=True)
class Calibration:
    """The sequences of a scan: of text, in the order of the tags and then of the text.

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


def build_calibration(  # noqa: PLR0913  (keywords, each with a default)
    sources: Sequence[Source],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    samples: int = 512,
    seq_len: int = 2048,
    seed: int = 0,
    context: int | None,
    vocab_size: int | None = None,
    without: Collection[str] = (),
) -> Calibration:
    """Read the sources and choose up to `samples` sequences of up to `seq_len` tokens.

    `context` is the longest sequence the model takes, None if it has no limit; `vocab_size` the
    rows of its embedding, to tell a foreign tokenizer. No sequence is taken whose digest is among
    `without`, and a tag that has no other is left out.

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
    pools = all_windows(contents, tokenizer, length, vocab_size, samples + len(without), seed)
    windows = {tag: pool.windows for tag, pool in pools.items()}
    notes += _left_out(contents, pools)
    if without:
        windows = _others(windows, frozenset(without))
    _check_tags(windows, samples)
    notes += _clamps(windows, samples, length)
    shares = share_out(samples, [len(of_tag) for of_tag in windows.values()])
    chosen = _number(
        (number, of_tag[place])
        for number, (tag, of_tag) in enumerate(windows.items())
        for place in choose(len(of_tag), shares[number], seed, tag)
    )
    _check_amount(chosen, sum(map(len, windows.values())))
    return Calibration(
        tags=tuple(windows),
        sources=tuple(map(_source_record, contents)),
        samples=chosen,
        seq_len=length,
        requested=(samples, seq_len),
        seed=seed,
        notes=tuple(notes),
        digest=_digest_of_all(tuple(windows), chosen, [samples, seq_len, length, seed]),
    )


def calibration_of_tokens(tags: Sequence[str], sequences: Sequence[Tokens]) -> Calibration:
    """A calibration of sequences that are tokens already, one tag each, in the given order.

    `tags` and `sequences` are of one length; a sequence is int32 [length]. Raises BadText where
    there is none, or one without tokens.
    """
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise BadText("a batch without tokens was given", "give sequences of 1 token or more")
    names = tuple(dict.fromkeys(tags))
    chosen = _number(
        (names.index(tag), Window(0, number, 0, tokens))
        for number, (tag, tokens) in enumerate(zip(tags, sequences, strict=True), start=1)
    )
    longest = max(map(len, sequences))
    asked = (len(sequences), longest)
    digest = _digest_of_all(names, chosen, [*asked, longest, 0])
    return Calibration(
        tags=names,
        sources=(SourceRecord("in memory", names[0], digest, len(sequences)),),
        samples=chosen,
        seq_len=longest,
        requested=asked,
        seed=0,
        notes=(),
        digest=digest,
    )


def _number(chosen: Iterable[tuple[int, Window]]) -> tuple[Sample, ...]:
    """Samples of pairs (tag's index, window), counted in their order."""
    samples: list[Sample] = []
    for tag, window in chosen:
        origin = (window.source, window.document, window.number)
        digest = _digest_of_tokens(window.tokens)
        samples.append(Sample(len(samples), tag, *origin, window.tokens, digest))
    return tuple(samples)


def _others(
    windows: Mapping[str, Sequence[Window]], without: Collection[str]
) -> dict[str, tuple[Window, ...]]:
    """Windows of other digests than `without`; tags that have none are left out."""
    others = {
        tag: tuple(w for w in of_tag if _digest_of_tokens(w.tokens) not in without)
        for tag, of_tag in windows.items()
    }
    left = {tag: of_tag for tag, of_tag in others.items() if of_tag or not windows[tag]}
    if not left:
        raise BadText("every sequence of the text is used already", "give other text")
    return left


def _digest_of_tokens(tokens: Tokens) -> str:
    return hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=8).hexdigest()


def _source_record(content: Documents) -> SourceRecord:
    source = content.source
    location = printable(source.location)
    return SourceRecord(location, source.default_tag, content.sha256, len(content.documents))


def _digest_of_all(tags: tuple[str, ...], samples: Sequence[Sample], settings: list[int]) -> str:
    content = [tags, [(sample.tag, sample.digest) for sample in samples], settings]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


# --- words and refusals ------------------------------------------------------------------------


def _left_out(contents: Sequence[Documents], pools: dict[str, Pool]) -> list[str]:
    notes = [note for content in contents for note in content.notes]
    empty = sum(content.blank for content in contents)
    empty += sum(pool.dropped for pool in pools.values())
    if empty:
        notes.append(f"{empty} documents are empty or a single token: left out")
    return notes + [
        f"tag {tag} has {pool.characters:,} characters: sequences are chosen from "
        f"{pool.read:,} of them, taken at random"
        for tag, pool in pools.items()
        if pool.read < pool.characters
    ]


def _clamps(windows: Mapping[str, Sequence[Window]], samples: int, length: int) -> list[str]:
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


def _check_tags(windows: Mapping[str, Sequence[Window]], samples: int) -> None:
    for tag, of_tag in windows.items():
        if not of_tag:
            raise BadText(
                f"tag {tag} holds no sequence of 2 tokens or more", "give it more text, or drop it"
            )
    if samples < len(windows):
        raise BadText(
            f"{samples} samples cannot cover {len(windows)} tags", f"--samples {len(windows)}"
        )


def _check_amount(samples: Sequence[Sample], available: int) -> None:
    tokens = sum(len(sample.tokens) for sample in samples)
    if len(samples) >= MIN_SEQUENCES and tokens >= MIN_TOKENS:
        return
    remedy = "give more text"
    if len(samples) < available:
        remedy = "raise --samples or --seq-len"
    elif tokens >= MIN_TOKENS:
        remedy += ", or lower --seq-len"
    sequences = f"{len(samples)} sequence{'s' if len(samples) > 1 else ''}"
    raise BadText(
        f"only {tokens} tokens of text in {sequences}, "
        f"a scan needs at least {MIN_TOKENS} in {MIN_SEQUENCES}",
        remedy,
    )
