"""Held-out text: never what the calibration has read; one clear line where there is no other."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from fp8scope.demo.files import DEMO_MODEL, demo_held_out, demo_sources
from fp8scope.errors import BadText
from fp8scope.measure.held_out import held_out_text
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.record import Profile
from fp8scope.runtime.sources import Source, parse_source
from fp8scope.runtime.text import Calibration, build_calibration
from tests import models
from tests.observe import scans
from tests.tokenizers import byte_tokenizer

MODEL: Any = models.build("llama", vocab_size=320)


def numbered(name: str, count: int) -> str:
    return "".join(f"{i} {name} is followed by {i + 1}, " for i in range(count))


def write(path: Path, text: str) -> Source:
    path.write_text(text, encoding="utf-8")
    return Source(None, str(path))


def calibrated(sources: list[Source], samples: int, seq_len: int = 32) -> Profile:
    text = build_calibration(
        sources, byte_tokenizer(), samples=samples, seq_len=seq_len, context=None
    )
    return scans.run(MODEL, text=text, batch_tokens=4096)


def held_out(profile: Profile, sources: list[Source] | None = None, **more: Any) -> Calibration:
    return held_out_text(profile, MODEL, byte_tokenizer(), sources or (), **more)


def digests(text: Calibration) -> set[str]:
    return {sample.digest for sample in text.samples}


def seen(profile: Profile) -> set[str]:
    return {digest.decode() for digest in profile.samples["digest"].tolist()}


@pytest.fixture
def files(tmp_path: Path) -> list[Source]:
    return [write(tmp_path / f"{name}.txt", numbered(name, 300)) for name in ("cat", "dog")]


@pytest.mark.parametrize("samples", [6, 20, 64])
def test_the_scans_own_sources_less_what_it_read(files: list[Source], samples: int) -> None:
    profile = calibrated(files, 40)
    found = held_out(profile, samples=samples)
    assert len(found.samples) == samples
    assert not digests(found) & seen(profile)
    assert found.tags == profile.tags == ("cat", "dog")
    assert [s.sha256 for s in found.sources] == [s["sha256"] for s in profile.sources]
    assert [sample.tag for sample in found.samples].count(0) == samples // 2
    assert held_out(profile, samples=samples).digest == found.digest
    everything = build_calibration(files, byte_tokenizer(), samples=5000, seq_len=32, context=None)
    assert digests(found) < digests(everything)


def test_of_much_text_enough_is_read(files: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that a choice is made from was mostly used by the scan: it grows by as much."""
    monkeypatch.setattr("fp8scope.runtime.windows._ALL", 1000)
    monkeypatch.setattr("fp8scope.runtime.windows._STRETCH", 1)
    profile = calibrated(files, 60)
    found = held_out(profile, samples=50)
    assert len(found.samples) == 50
    assert not digests(found) & seen(profile)


def test_given_text_is_held_against_the_profile_too(files: list[Source], tmp_path: Path) -> None:
    profile = calibrated(files[:1], 20)
    other = write(tmp_path / "new.txt", numbered("owl", 100))
    both = held_out(profile, [parse_source(f"cat={other.location}"), files[0]])
    assert both.tags == ("cat",)
    assert not digests(both) & seen(profile)
    assert {sample.source for sample in both.samples} == {0, 1}


def test_a_tag_that_is_used_up_is_left_out(files: list[Source], tmp_path: Path) -> None:
    short = write(tmp_path / "short.txt", numbered("ant", 12))
    profile = calibrated([*files, short], 90)
    assert (profile.samples["tag"] == 2).sum() < 30
    assert held_out(profile).tags == ("cat", "dog")


def test_text_that_is_used_up_is_one_clear_line(files: list[Source], tmp_path: Path) -> None:
    profile = calibrated(files, 5000)
    with pytest.raises(BadText, match=r"^no text is held out: every sequence .* → give .*held-out"):
        held_out(profile)
    with pytest.raises(BadText, match=r"^every sequence .* → give other text$"):
        held_out(profile, files[:1])
    few = write(tmp_path / "few.txt", "too little")
    with pytest.raises(BadText, match=r"only .* tokens of text"):
        held_out(profile, [few])


def test_files_that_changed_or_went(files: list[Source]) -> None:
    profile = calibrated(files, 40)
    path = Path(files[0].location)
    path.write_text(path.read_text() + numbered("cow", 50))
    found = held_out(profile)
    assert f"{path} has changed since the scan" in found.notes
    assert not digests(found) & seen(profile)
    path.unlink()
    with pytest.raises(BadText, match=r"no text is held out: no such file: .*cat.txt → give other"):
        held_out(profile)


def test_profiles_that_do_not_name_their_text(files: list[Source], tmp_path: Path) -> None:
    other = write(tmp_path / "new.txt", numbered("owl", 100))
    in_memory = scans.run(MODEL)
    with pytest.raises(BadText, match=r"from tokens in memory → give other text with --held-out"):
        held_out(in_memory)
    assert len(held_out(in_memory, [other]).samples) > 2
    merged = merge_profiles([calibrated(files[:1], 20), calibrated(files[1:], 20, seq_len=48)])
    with pytest.raises(BadText, match="merged from sequences of several lengths"):
        held_out(merged)
    assert held_out(merged, [other]).seq_len == 48


def test_chat_is_rendered_by_the_template(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    rows = [{"messages": [{"role": "user", "content": numbered(f"q{i}", 9)}]} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    profile = calibrated([Source("chat", str(path))], 8)
    found = held_out(profile)
    assert not digests(found) & seen(profile)
    assert any("<|user|>" in str(byte_tokenizer().decode(s.tokens.tolist())) for s in found.samples)


def test_the_demo_has_its_own() -> None:
    """Of every tag, disjoint from what a scan of the demo reads."""
    assert [s.tag for s in demo_held_out()] == [s.tag for s in demo_sources()]
    source: Any = AutoModelForCausalLM
    model, tokenizer = source.from_pretrained(DEMO_MODEL), AutoTokenizer.from_pretrained(DEMO_MODEL)
    settings: dict[str, Any] = {"samples": 512, "seq_len": 2048, "context": 256}
    scanned = build_calibration(demo_sources(), tokenizer, **settings)
    found = build_calibration(demo_held_out(), tokenizer, **settings)
    assert len(scanned.samples) == 274
    assert not digests(found) & digests(scanned)
    assert found.tags == scanned.tags
    per_tag = [[s.tag for s in found.samples].count(i) for i in range(4)]
    assert min(per_tag) >= 10
    words = [Path(s.location).read_text() for s in (*demo_sources(), *demo_held_out())]
    lines = [[line for line in text.splitlines() if len(line) > 60] for text in words]
    assert not set(chain(*lines[:4])) & set(chain(*lines[4:]))
    assert model.config.vocab_size == 1024
