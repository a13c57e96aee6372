"""Ranges of exports that nsys 2023.4.4 itself wrote, on a machine without a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fp8scope.traces.nsys import read_nsys_ranges
from fp8scope.traces.nsys_ranges import read_ranges
from fp8scope.traces.nsys_tables import opened
from fp8scope.traces.trace import Range
from tests.traces.make_nsys import LAYERS, STEPS, linears
from tests.traces.nsys_file import REAL

PASSES = 1 + STEPS + 1
"""Prefill, the steps of decode, and one on a thread of its own."""


def ranges_of(scenario: str) -> tuple[Range, ...]:
    return read_nsys_ranges(REAL / f"{scenario}.sqlite")


def notes_of(path: Path) -> list[str]:
    with opened(path) as export:
        return read_ranges(export).notes


def test_every_time_through_a_range_is_read() -> None:
    times = Counter(span.name for span in ranges_of("tagged"))
    expected = Counter({"prefill": 2, "decode": STEPS})
    for module, member in linears():
        expected[module] += PASSES
        expected[f"{module}.{member}"] += PASSES
    expected += Counter(["started and ended here", "model.norm", "never closed"])
    assert times == expected


def test_a_linear_lies_in_its_module_and_that_in_the_step() -> None:
    parents = Counter(
        span.parents
        for span in ranges_of("tagged")
        if span.name == "model.layers.1.self_attn.q_proj"
    )
    module = "model.layers.1.self_attn"
    assert parents == {("decode", module): STEPS, ("prefill", module): 1, (module,): 1}


def test_what_another_thread_pushes_is_not_inside_the_range_that_waits_for_it() -> None:
    _, second = (span for span in ranges_of("tagged") if span.name == "prefill")
    within = [
        span
        for span in ranges_of("tagged")
        if second.start_us < span.start_us and span.end_us < second.end_us
    ]
    assert len(within) == 2 * sum(1 for _ in linears())
    assert not any("prefill" in span.parents for span in within)


def test_times_are_microseconds_and_nest() -> None:
    spans = ranges_of("tagged")
    assert list(spans) == sorted(spans, key=lambda span: (span.start_us, -span.end_us))
    step = [span for span in spans if span.name == "decode"]
    # 14 linears of at least 200 µs of sleep each; a slow machine takes longer.
    assert all(14 * 200 < span.end_us - span.start_us < 1e6 for span in step)


def test_a_text_that_was_not_registered_is_read_too() -> None:
    assert [span.name for span in ranges_of("tagged")].count("model.norm") == 1


def test_a_range_that_ends_on_another_thread_is_left_out_and_said() -> None:
    assert "ended elsewhere" not in {span.name for span in ranges_of("tagged")}
    assert notes_of(REAL / "tagged.sqlite") == [
        "1 ranges ended on another thread than they began on: left out"
    ]


def test_modules_that_an_engine_tags_are_named_as_its_model_names_them() -> None:
    spans = ranges_of("layerwise")
    assert [span.name for span in spans] == [f"{module}.{member}" for module, member in linears()]
    assert len(spans) == 7 * LAYERS
    assert not any(span.parents for span in spans)
    assert notes_of(REAL / "layerwise.sqlite") == [
        "the ranges are an engine's own, one per module: prefill and decode are not told apart"
    ]


def test_ranges_that_this_nsys_could_not_record_are_explained() -> None:
    assert ranges_of("silent") == ()
    (note,) = notes_of(REAL / "silent.sqlite")
    assert "nvtx is newer than this nsys can read" in note


@pytest.mark.parametrize("scenario", ["tagged", "layerwise", "silent"])
def test_the_files_tell_nothing_of_the_machine_that_made_them(scenario: str) -> None:
    data = (REAL / f"{scenario}.sqlite").read_bytes()
    assert len(data) < 300_000
    for telling in (b"/root", b"/home", b"/tmp", b"PATH=", b"HOSTNAME", b"USER", b"_TOKEN"):
        assert telling not in data
