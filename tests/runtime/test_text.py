import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.errors import BadInput, BadModel, BadText
from fp8scope.runtime import tokenizing, windows
from fp8scope.runtime.documents import Document
from fp8scope.runtime.sampling import share_out
from fp8scope.runtime.sources import Source
from fp8scope.runtime.text import Calibration, build_calibration
from fp8scope.runtime.windows import cut_windows
from tests.tokenizers import byte_tokenizer

PROSE = "It is a truth universally acknowledged, that a single man must be in want of a wife. "
CODE = "def add(a, b):\n    return a + b\n\n"


def write(path: Path, content: str) -> Source:
    path.write_text(content, encoding="utf-8")
    return Source(None, str(path))


def numbered(count: int) -> str:
    return "".join(f"{i} is followed by {i + 1}, " for i in range(count))


def build(sources: list[Source], **settings: Any) -> Calibration:
    settings = {"context": None, "seq_len": 32, "samples": 20} | settings
    tokenizer = settings.pop("tokenizer", None) or byte_tokenizer()
    return build_calibration(sources, tokenizer, **settings)


# --- windows -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(2, 40), st.sampled_from([None, 0]))
def test_windows_start_with_bos_and_hold_the_text_in_order(
    ids: list[int], length: int, bos: int | None
) -> None:
    windows = cut_windows(np.array(ids, dtype=np.int32), length, bos)
    joined: list[int] = []
    for window in windows:
        assert 2 <= len(window) <= length
        assert window.dtype == np.int32
        assert not window.flags.writeable
        assert bos is None or window[0] == bos
        joined += window.tolist()
    # Without the BOS that each window has, nothing is lost but a stub at the end.
    kept = [i for i in joined if i != bos]
    wanted = [i for i in ids if i != bos]
    assert kept == wanted[: len(kept)]
    assert len(wanted) - len(kept) <= max(1, length // 8)


def test_bos_is_not_doubled_and_takes_a_place() -> None:
    assert [w.tolist() for w in cut_windows(np.arange(0, 8, dtype=np.int32), 4, 0)] == [
        [0, 1, 2, 3],
        [0, 4, 5, 6],
        [0, 7],
    ]
    assert [w.tolist() for w in cut_windows(np.arange(8, dtype=np.int32), 4, None)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_a_stub_is_dropped_unless_it_is_all() -> None:
    assert [len(w) for w in cut_windows(np.arange(1, 64 + 7, dtype=np.int32), 64, None)] == [64]
    assert [len(w) for w in cut_windows(np.arange(1, 64 + 9, dtype=np.int32), 64, None)] == [64, 8]
    assert [len(w) for w in cut_windows(np.arange(1, 4, dtype=np.int32), 64, None)] == [3]
    assert cut_windows(np.array([5], dtype=np.int32), 64, None) == []


# --- shares ------------------------------------------------------------------------------------


@given(st.integers(0, 600), st.lists(st.integers(0, 300), max_size=6))
def test_shares_are_equal_as_far_as_the_text_goes(wanted: int, available: list[int]) -> None:
    shares = share_out(wanted, available)
    assert sum(shares) == min(wanted, sum(available))
    assert all(0 <= share <= most for share, most in zip(shares, available, strict=True))
    unfilled = [s for s, most in zip(shares, available, strict=True) if s < most]
    assert not unfilled or max(shares) - min(unfilled) <= 1


def test_a_short_tag_leaves_its_share_to_the_others() -> None:
    assert share_out(512, [1000, 1000, 1000]) == [171, 171, 170]
    assert share_out(513, [1000, 10, 1000]) == [252, 10, 251]


# --- calibrations ------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
def test_text_becomes_tagged_sequences(tmp_path: Path, bos: bool) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    sources = [write(tmp_path / "prose.txt", PROSE * 40), write(tmp_path / "code.md", CODE * 80)]
    result = build(sources, tokenizer=tokenizer, samples=21, vocab_size=len(tokenizer))
    assert result.tags == ("prose", "code")
    assert [(s.tag, s.documents) for s in result.sources] == [("prose", 1), ("code", 1)]
    assert [s.index for s in result.samples] == list(range(21))
    assert [s.tag for s in result.samples] == [0] * 11 + [1] * 10
    assert (result.seq_len, result.requested, result.notes) == (32, (21, 32), ())
    assert result.tokens == sum(len(s.tokens) for s in result.samples)
    step = 31 if bos else 32
    for sample in result.samples:
        full = tokenizer((PROSE * 40, CODE * 80)[sample.tag], add_special_tokens=False)["input_ids"]
        fresh = sample.tokens[1:] if bos else sample.tokens
        start = sample.window * step
        assert fresh.tolist() == full[start : start + step]
        assert not bos or sample.tokens[0] == tokenizer.bos_token_id
    for tag in (0, 1):
        order = [s.window for s in result.samples if s.tag == tag]
        assert order == sorted(set(order))


def test_documents_are_never_joined(tmp_path: Path) -> None:
    rows = [{"text": "short"}, {"text": PROSE * 3}, {"text": "</s>"}] * 3
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = build([Source(None, str(path))], samples=100)
    tokenizer = byte_tokenizer()
    of_first = [s for s in result.samples if s.document == 1]
    assert len(of_first) == 1
    assert tokenizer.decode(of_first[0].tokens.tolist()) == "<s>short"
    assert sorted({s.document for s in result.samples}) == list(range(1, 10))


def test_messages_go_through_the_chat_template(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": PROSE}, {"role": "assistant", "content": CODE * 3}]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join([json.dumps({"messages": messages})] * 2), encoding="utf-8")
    result = build([Source(None, str(path))], seq_len=512, samples=2)
    rendered = f"<s><|user|>{PROSE}</s><|assistant|>{CODE * 3}</s>"
    assert [byte_tokenizer().decode(s.tokens.tolist()) for s in result.samples] == [rendered] * 2

    with pytest.raises(BadText, match=r"chat\.jsonl:1 .* no chat template → take the tokenizer of"):
        build([Source(None, str(path))], tokenizer=byte_tokenizer(chat=False))
    path.write_text(json.dumps({"messages": [{"role": "tool", "content": "x"}]}), encoding="utf-8")
    with pytest.raises(BadText, match=r"refuses .*chat\.jsonl:1: no tools here → check the order"):
        build([Source(None, str(path))])


def test_sources_may_share_a_tag(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", PROSE * 20), write(tmp_path / "b.txt", CODE * 20)
    result = build([Source("x", a.location), Source("x", b.location)], samples=500)
    assert result.tags == ("x",)
    assert {s.source for s in result.samples} == {0, 1}


def test_a_long_text_is_tokenized_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.txt", (CODE + PROSE + "x" * 150) * 10)
    whole = build([source], samples=1000)
    monkeypatch.setattr(tokenizing, "_PIECE_CHARACTERS", 100)
    pieces = build([source], samples=1000)
    decode = byte_tokenizer().decode
    texts = [
        "".join(str(decode(s.tokens[1:].tolist())) for s in result.samples)
        for result in (whole, pieces)
    ]
    assert texts[0] == texts[1]


def test_the_choice_of_a_tag_does_not_depend_on_the_others(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", numbered(300)), write(tmp_path / "b.txt", CODE * 200)

    def digests(result: Calibration, tag: str) -> list[str]:
        return [s.digest for s in result.samples if result.tags[s.tag] == tag]

    alone = digests(build([a], samples=10), "a")
    assert digests(build([b, a], samples=20), "a") == alone
    assert set(digests(build([a, b], samples=10), "a")) < set(alone)
    assert digests(build([a], samples=10, seed=1), "a") != alone


def test_of_much_text_only_a_part_is_tokenized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(windows, "_ALL", 5000)
    monkeypatch.setattr(windows, "_STRETCH", 1)  # then 32 characters for each token of a sequence

    def counted(document: Document, tokenizer: Any) -> tokenizing.Tokens:
        seen.append(document.characters)
        return tokenizing.tokenize(document, tokenizer)

    monkeypatch.setattr(windows, "tokenize", counted)
    small = write(tmp_path / "small.txt", CODE * 100)
    book = write(tmp_path / "book.txt", numbered(5000))
    logs = tmp_path / "logs.jsonl"
    logs.write_text("\n".join(json.dumps({"text": f"{i}: {CODE}"}) for i in range(1000)))
    sources = [small, book, Source(None, str(logs))]
    result = build(sources, samples=30, seq_len=16)

    assert sum(seen) < 15_000, "of 150,000"
    assert result == build(sources, samples=30, seq_len=16)
    assert result.digest != build(sources, samples=30, seq_len=16, seed=1).digest
    assert [sum(s.tag == tag for s in result.samples) for tag in range(3)] == [10, 10, 10]
    for tag in (1, 2):
        places = [(s.document, s.window) for s in result.samples if s.tag == tag]
        assert places == sorted(set(places))
    # from all over the text, and what stands in one sequence stands so in the text
    ids = [s.document for s in result.samples if s.tag == 2]
    assert min(ids) < 300
    assert max(ids) > 700
    whole, starts = numbered(5000), []
    for sample in result.samples:
        if sample.tag == 1:
            starts.append(whole.find(str(byte_tokenizer().decode(sample.tokens[1:].tolist()))))
    assert min(starts) >= 0
    assert max(starts) - min(starts) > len(whole) / 3
    assert [note.split(":")[0] for note in result.notes] == [
        f"tag book has {len(whole):,} characters",
        f"tag logs has {sum(len(f'{i}: {CODE}') for i in range(1000)):,} characters",
    ]
    # the choice of a tag that is read in full is what it would be alone
    monkeypatch.setattr(windows, "_ALL", 1 << 22)
    assert build([small], samples=10, seq_len=16).samples[3].digest == result.samples[3].digest


def test_a_long_sequence_is_filled_from_much_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_ALL", 5000)
    monkeypatch.setattr(windows, "_STRETCH", 50)
    result = build([write(tmp_path / "a.txt", PROSE * 900)], seq_len=500, samples=4)
    assert {len(s.tokens) for s in result.samples} == {500}


def test_a_name_of_any_bytes_is_recorded(tmp_path: Path) -> None:
    result = build([write(tmp_path / "caf\udce9.txt", PROSE * 40)])
    assert result.tags == ("caf\\udce9",)
    assert result.sources[0].location == f"{tmp_path}/caf\\udce9.txt"


def test_the_digest_holds_text_and_settings_but_not_names(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", numbered(200))
    again = write(tmp_path / "other.txt", numbered(200))
    digest = build([source]).digest
    assert build([Source("a", again.location)]).digest == digest
    assert build([source]) == build([source])
    changed = [
        build([again]).digest,
        build([source], samples=19).digest,
        build([source], seq_len=31).digest,
        build([source], seed=1).digest,
        build([source], tokenizer=byte_tokenizer(bos=False)).digest,
        build([write(tmp_path / "a.txt", numbered(201)[1:])]).digest,
    ]
    assert len({digest, *changed}) == 7


def test_the_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    sources = [write(tmp_path / "a.txt", numbered(200)), write(tmp_path / "b.txt", CODE * 60)]
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    program = """
import sys
from transformers import PreTrainedTokenizerFast
from fp8scope.runtime.sources import Source
from fp8scope.runtime.text import build_calibration
folder, *locations = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
sources = [Source(None, location) for location in locations]
print(build_calibration(sources, tokenizer, samples=20, seq_len=32, context=None).digest)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "tokenizer")]
    command += [source.location for source in sources]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == build(sources).digest


def test_reading_text_needs_no_torch() -> None:
    program = "import sys, fp8scope.runtime.text; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_no_warning_about_long_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("transformers.tokenization_utils_base")
    # the command line quiets transformers for the whole process, other tests' included
    logger.setLevel(logging.WARNING)
    request.addfinalizer(lambda: logger.setLevel(logging.NOTSET))
    monkeypatch.setattr(logger, "handle", lambda r: records.append(r) if logger.filter(r) else None)
    byte_tokenizer()(PROSE)
    assert len(records) == 1, "the tokenizer warns by itself"
    build([write(tmp_path / "a.txt", PROSE * 20)])
    assert len(records) == 1
    assert not logger.filters


# --- clamps and refusals -----------------------------------------------------------------------


def test_every_clamp_is_told(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", PROSE * 40), write(tmp_path / "b.txt", PROSE * 2)
    total = len(build([a, b], samples=1000).samples)
    assert build([a, b], samples=1000).notes == (
        f"asked for 1000 sequences, the text holds {total}: using all of it",
    )
    held = sum(s.tag == 1 for s in build([a, b], samples=1000).samples)
    assert build([a, b], samples=20).notes == (
        f"tag b holds {held} sequences of its share of 10: the others take the rest",
    )
    assert build([a], seq_len=64, context=32, samples=10).notes == (
        "asked for sequences of 64 tokens, the model takes 32: using 32",
    )
    assert build([a], seq_len=64, context=32, samples=10).seq_len == 32
    rows = tmp_path / "r.jsonl"
    texts = [{"text": t} for t in (PROSE * 2, PROSE * 3, "", "")]
    rows.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    result = build([Source(None, str(rows))], seq_len=512, samples=2)
    longest = max(len(s.tokens) for s in result.samples)
    assert result.notes == (
        "2 documents are empty or a single token: left out",
        f"no document fills a sequence of 512 tokens, the longest has {longest}",
    )


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    short = write(tmp_path / "a.txt", PROSE)
    with pytest.raises(BadText, match=r"only \d+ tokens of text in 2 sequences, a scan needs at l"):
        build([short])
    one = write(tmp_path / "b.txt", PROSE * 9)
    with pytest.raises(BadText, match=r"in 1 sequence, .* 128 in 2 → .*lower --seq-len"):
        build([one], seq_len=2048)
    with pytest.raises(BadText, match=r"→ give more text$"):
        build([write(tmp_path / "c.txt", "Hello there, you")])
    with pytest.raises(BadText, match=r"→ raise --samples or --seq-len$"):
        build([one], samples=2, seq_len=16)


def test_a_tag_without_text_or_without_a_share_is_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", PROSE * 9), write(tmp_path / "b.txt", "x")
    with pytest.raises(BadText, match=r"tag b holds no sequence of 2 tokens or more → give it"):
        build([a, b], tokenizer=byte_tokenizer(bos=False))
    c = write(tmp_path / "c.txt", CODE * 9)
    with pytest.raises(BadText, match="2 samples cannot cover 3 tags → --samples 3"):
        build([a, c, write(tmp_path / "b.txt", "many words")], samples=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "1 samples are too few → --samples 2 or more"),
        ({"seq_len": 1}, "a sequence of 1 tokens is too short"),
        ({"context": 1}, "a sequence of 1 tokens is too short"),
        ({"seed": -1}, "the seed is -1"),
    ],
)
def test_settings_that_give_nothing_are_refused(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        build([write(tmp_path / "a.txt", PROSE * 9)], **settings)


def test_a_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", PROSE * 9)
    with pytest.raises(
        BadModel, match=r"do not belong together: token id \d+, and the model has 9"
    ):
        build([source], vocab_size=90)
