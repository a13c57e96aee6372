"""What a scan says of itself while it runs."""

from __future__ import annotations

import re

import pytest

from fp8scope.cli import progress
from fp8scope.cli.interrupts import Interrupts
from fp8scope.observe.recorder import Recorder
from fp8scope.profile.record import Profile
from tests.cli.conftest import Fp8scope, InterruptAt
from tests.profiles import build


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _profile() -> Profile:
    profile = build(complete=False, batches_done=0)
    profile.model["architecture"] = "InventedForCausalLM"
    profile.environment["device"] = "cpu"
    return profile


def test_on_a_terminal_the_bar_says_that_it_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    interrupts = Interrupts()
    with progress.watch(interrupts) as events:
        events.begin(_profile())
        interrupts.announce("stopping after this batch")
        assert not interrupts.asked
    assert "stopping after this batch" in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "monotonic", made)
    return made


def test_a_log_gets_a_line_after_10_seconds_and_then_every_30(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = _profile()
    profile.samples["length"][:] = 1000
    tokens = int(profile.samples["length"].sum())
    said = []
    with progress.watch(Interrupts()) as events:
        events.begin(profile)
        capsys.readouterr()
        for second in range(1, 101):
            clock.now = float(second)
            events.batch(second, 100, tokens // 100)
            said += [(second, line) for line in capsys.readouterr().err.splitlines()]
    assert [second for second, _ in said] == [10, 40, 70, 100]
    assert said[0][1].startswith("10 of 100 batches, ")


def test_the_time_left_is_of_the_tokens_that_are_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = _profile()
    profile.samples["length"][:] = 0
    profile.samples["length"][0] = 10_000
    with progress.watch(Interrupts()) as events:
        events.begin(profile)
        for second, tokens in ((100, 1000), (101, 10), (150, 490)):  # the first is slow
            clock.now = float(second)
            events.batch(1, 9, tokens)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("10 tokens/s: about 14 min 10 s to go")  # (10,000 - 1500) / 10


def test_a_scan_says_what_it_scans_and_a_resumed_one_starts_where_it_was(
    scan: Fp8scope, interrupt_at: InterruptAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[progress._View] = []
    original = progress._View.begin

    def begin(self: progress._View, profile: Profile) -> None:
        original(self, profile)
        bars.append(self)
        started.append(self.tokens)

    started: list[int] = []
    monkeypatch.setattr(progress._View, "begin", begin)
    with interrupt_at(Recorder, "run", call=2):
        first = scan()
    line = r"scanning LlamaForCausalLM \(llama\) in bfloat16 on cpu: text 6 sequences, \d+ tokens$"
    assert re.search(line, first.err, re.MULTILINE)
    assert scan("--resume").code == 0
    assert started[0] == 0
    assert started[1] == bars[0].tokens > 0
    assert bars[1].tokens == bars[1].total_tokens
