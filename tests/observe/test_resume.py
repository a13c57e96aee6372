"""Stopped anywhere and resumed, a scan gives the bits of an uninterrupted one; parts merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fp8scope.errors import CannotResume, Interrupted
from fp8scope.observe.scan import Events, ScanOptions
from fp8scope.profile.layout import EXPERT_FIELDS, SITE_FIELDS, Combine, Field
from fp8scope.profile.merge import merge_profiles
from fp8scope.profile.partial import Partials
from fp8scope.runtime.sources import Source
from fp8scope.runtime.text import Calibration, build_calibration
from tests.observe import scans
from tests.tokenizers import byte_tokenizer

OPTIONS = {
    record: ScanOptions(record, batch_tokens=12, keep_every=1e9) for record in ("standard", "full")
}


@pytest.mark.parametrize(
    ("name", "record"), [("llama", "standard"), ("llama", "full"), ("mixtral", "standard")]
)
def test_stopped_after_any_batch_and_resumed_is_bit_identical(
    name: str, record: str, tmp_path: Path
) -> None:
    what, options = scans.subject(scans.in_dtype(name, torch.bfloat16)), OPTIONS[record]
    whole = scans.scan_with(what, options)
    assert len(whole.tags) == 2
    assert whole.batches_done >= 4
    for batches in range(1, whole.batches_done):
        output = tmp_path / f"{batches}.h5"
        with pytest.raises(Interrupted, match=f"after {batches} of {whole.batches_done} batches"):
            scans.scan_with(what, options, Partials(output), scans.StopAfter(batches).events)
        partials = Partials(output)
        kept = partials.load()
        assert kept is not None
        assert kept.batches_done == batches
        assert not kept.complete
        scans.assert_identical(scans.scan_with(what, options, partials, resume=kept), whole)


@pytest.mark.parametrize("name", ["gpt2", "deepseek_v3"])
def test_stopped_after_every_batch_in_turn(name: str, tmp_path: Path) -> None:
    what, options = scans.subject(scans.in_dtype(name, torch.float32)), OPTIONS["full"]
    whole = scans.scan_with(what, options)
    resume, partials = None, Partials(tmp_path / "p.h5")
    for batches in range(1, whole.batches_done):
        with pytest.raises(Interrupted):
            scans.scan_with(what, options, partials, scans.StopAfter(batches).events, resume)
        partials = Partials(tmp_path / "p.h5")
        resume = partials.load()
    scans.assert_identical(scans.scan_with(what, options, partials, resume=resume), whole)


def test_a_damaged_partial_leaves_the_one_before(tmp_path: Path) -> None:
    what, options = scans.subject(scans.in_dtype("llama", torch.bfloat16)), OPTIONS["standard"]
    whole, output = scans.scan_with(what, options), tmp_path / "p.h5"
    kept, partials = None, Partials(output)
    for batches in (1, 2):
        with pytest.raises(Interrupted):
            scans.scan_with(what, options, partials, scans.StopAfter(batches).events, kept)
        partials = Partials(output)
        kept = partials.load()
    newest = partials.paths[1]
    newest.write_bytes(newest.read_bytes()[:-500])
    partials = Partials(output)
    kept = partials.load()
    assert kept is not None
    assert kept.batches_done == 1
    scans.assert_identical(scans.scan_with(what, options, partials, resume=kept), whole)


def test_a_stop_while_reading_weights_keeps_nothing(tmp_path: Path) -> None:
    what, partials = (
        scans.subject(scans.in_dtype("llama", torch.bfloat16)),
        Partials(tmp_path / "p"),
    )
    with pytest.raises(Interrupted, match="weights"):
        scans.scan_with(what, OPTIONS["full"], partials, Events(stop=lambda: True))
    assert not partials.exist()


@pytest.mark.parametrize("what", ["settings", "model"])
def test_another_scans_partial_is_refused(what: str) -> None:
    subject, options = scans.subject(scans.in_dtype("llama", torch.bfloat16)), OPTIONS["standard"]
    kept = scans.scan_with(subject, options)
    if what == "settings":
        options, name = (
            replace(options, batch_tokens=50),
            "size of a micro-batch differs .12 there, 50 asked",
        )
    else:
        other = scans.in_dtype("llama", torch.bfloat16, seed=1)
        subject, name = scans.subject(other), "the model's weights differ"
    with pytest.raises(CannotResume, match=name):
        scans.scan_with(subject, options, resume=kept)


def test_the_models_name_and_another_machine_do_not_refuse() -> None:
    subject, options = scans.subject(scans.in_dtype("llama", torch.bfloat16)), OPTIONS["standard"]
    kept = scans.scan_with(subject, options)
    kept.model["name"] += "/"
    kept.environment["device"] = "cuda:0"
    said: list[str] = []
    resumed = scans.scan_with(subject, options, events=Events(warn=said.append), resume=kept)
    assert said == [
        "resumed with another device (cuda:0, then cpu): "
        "not bit-identical to one uninterrupted scan"
    ]
    assert resumed.notes.count(said[0]) == 1


def test_seconds_count_on_over_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what, options = scans.subject(scans.in_dtype("llama", torch.bfloat16)), OPTIONS["standard"]
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop, partials = scans.StopAfter(2), Partials(tmp_path / "p.h5")

    def batch(done: int, total: int, tokens: int) -> None:
        now[0] += 10
        stop.reached = done == 2

    events = Events(batch=batch, stop=lambda: stop.reached)
    with pytest.raises(Interrupted):
        scans.scan_with(what, options, partials, events)
    kept = partials.load()
    assert kept is not None
    assert kept.environment["seconds"] == 20
    now[0] += 1000  # between the two commands
    whole = scans.scan_with(what, options, partials, events, kept)
    assert whole.environment["seconds"] == 10 * whole.batches_done


def test_a_partial_that_cannot_be_written_does_not_stop_a_scan(tmp_path: Path) -> None:
    what = scans.subject(scans.in_dtype("llama", torch.bfloat16))
    whole = scans.scan_with(what, OPTIONS["standard"])
    said: list[str] = []
    options = replace(OPTIONS["standard"], keep_every=0.0)
    partials = Partials(tmp_path / "gone" / "p.h5")
    got = scans.scan_with(what, options, partials, Events(warn=said.append))
    assert len(said) == 1
    assert said[0].startswith(f"no partial is kept: cannot write {partials.paths[0]}")
    scans.assert_identical(got, whole)


# --- merging -----------------------------------------------------------------------------------

WORDS = "It is a truth universally acknowledged, that a man must be in want of a wife. "


def _text(folder: Path, *sources: tuple[str, str]) -> Calibration:
    return build_calibration(
        [Source(tag, str(folder / name)) for tag, name in sources],
        byte_tokenizer(),
        samples=64,
        seq_len=24,
        context=128,
    )


@pytest.mark.parametrize(
    ("name", "tags"),
    [("llama", ("a", "b")), ("llama", ("a", "a")), ("llama", ("b", "a")), ("mixtral", ("b", "a"))],
)
def test_scans_of_two_halves_merge_into_the_scan_of_both(
    name: str, tags: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("".join(f"{i} {WORDS}" for i in range(12)))
    (tmp_path / "two.txt").write_text("".join(f"def f{i}(x): return x\n" for i in range(30)))
    files = tuple(zip(tags, ("one.txt", "two.txt"), strict=True))
    model = scans.in_dtype(name, torch.bfloat16, vocab_size=320)
    options = ScanOptions(batch_tokens=1)
    whole, first, second = (
        scans.scan_with(scans.subject(model, _text(tmp_path, *part), byte_tokenizer()), options)
        for part in (files, files[:1], files[1:])
    )
    merged = merge_profiles([first, second])
    assert merged.tags == whole.tags
    assert dict(merged.aliases) == dict(whole.aliases)
    for column in ("tag", "length", "digest", "source"):
        np.testing.assert_array_equal(merged.samples[column], whole.samples[column])
    for column, values in whole.excerpts.items():
        np.testing.assert_array_equal(np.sort(merged.excerpts[column]), np.sort(values))
    for kind, fields in (("sites", SITE_FIELDS), ("experts", EXPERT_FIELDS)):
        for site, record in getattr(whole, kind).items():
            _check_merged(f"{kind} {site}", getattr(merged, kind)[site], record, fields)


def _check_merged(site: str, merged: Any, whole: Any, fields: Mapping[str, Field]) -> None:
    for name, field in fields.items():
        got, want = getattr(merged, name), getattr(whole, name)
        if want is None:
            continue
        if field.combine is Combine.SUM and field.dtype.startswith("float"):
            np.testing.assert_allclose(got, want, rtol=1e-5)
        else:
            np.testing.assert_array_equal(got, want, err_msg=f"{site} {name}")
