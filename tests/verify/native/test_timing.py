"""Times are of what was asked for, and what did not work is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fp8scope.verify.native import timing
from fp8scope.verify.native.clock import CpuClock
from fp8scope.verify.native.engine import open_engine
from fp8scope.verify.native.timing import timed
from tests.verify.native import engines


class Stopwatch(CpuClock):
    """A prefill takes 100 ms the first time and 10 ms more each time; a step takes 5 ms."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.first = 0.090 + 0.010 * self.runs

    def mark(self) -> None:
        self._marks.append(self.first + 0.005 * (len(self._marks) - 1) if self._marks else 0.0)


def test_percentiles_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs after a warm-up: prefills of 110, 120 and 130 ms, 5 steps of 5 ms each."""
    Stopwatch.runs = 0
    monkeypatch.setattr(timing, "clock_of", lambda device: Stopwatch())
    told: list[str] = []
    order = engines.order(engines.checkpoint("llama"))
    found = timed(open_engine(order), order, told.append)
    speed = found.speed
    assert speed.ttft_ms is not None
    assert speed.tpot_ms is not None
    assert speed.latency_ms is not None
    assert (speed.ttft_ms.count, speed.tpot_ms.count) == (3, 15)
    assert np.allclose([speed.ttft_ms.p50, speed.ttft_ms.mean], 120)
    assert np.isclose(speed.ttft_ms.p95, 129)
    assert np.isclose(speed.tpot_ms.p50, 5)
    assert np.isclose(speed.latency_ms.p50, 145)
    assert np.isclose(speed.prefill_tokens_per_s or 0, 2 * 9 / 0.120)
    assert np.isclose(speed.decode_tokens_per_s or 0, 2 / 0.005)
    assert np.isclose(speed.tokens_per_s or 0, 2 * 6 / 0.145)
    assert told == ["warming up", "prefill 1/3", "prefill 2/3", "prefill 3/3"]
    assert (found.compiled, found.cuda_graphs, found.notes) == (False, False, ())


def test_one_token_is_a_prefill_alone() -> None:
    order = engines.order(engines.checkpoint("llama"), gen_len=1)
    speed = timed(open_engine(order), order, lambda _: None).speed
    assert speed.tpot_ms is None
    assert speed.decode_tokens_per_s is None
    assert speed.latency_ms == speed.ttft_ms


def test_compiled_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    order = engines.order(engines.checkpoint("llama"), compile=True)
    found = timed(open_engine(order), order, lambda _: None)
    assert (found.compiled, found.cuda_graphs, found.notes) == (True, False, ())


def test_a_compiler_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such\nbackend")

    monkeypatch.setattr(torch, "compile", fail)
    order = engines.order(engines.checkpoint("llama"), compile=True)
    found = timed(open_engine(order), order, lambda _: None)
    assert not found.compiled
    assert found.notes == ("torch.compile failed, so that it runs eagerly: no such backend",)
    assert found.speed.tpot_ms is not None


def test_a_window_that_moves_is_said() -> None:
    order = engines.order(engines.checkpoint("mistral"), compile=True)
    found = timed(open_engine(order), order, lambda _: None)
    assert not found.compiled
    assert len(found.notes) == 1
    assert "does not keep every token" in found.notes[0]


def test_experts_that_are_chosen_on_the_cpu_are_said() -> None:
    """Each count of tokens would be compiled anew."""
    order = engines.order(engines.checkpoint("mixtral"), compile=True)
    found = timed(open_engine(order), order, lambda _: None)
    assert (found.compiled, found.cuda_graphs) == (False, False)
    assert found.notes == (
        "the tokens of FP8 experts are counted on the CPU, so that it runs eagerly",
    )


def test_no_room_is_not_taken_for_a_compiler_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", full)
    order = replace(engines.order(engines.checkpoint("llama")), compile=True)
    with pytest.raises(torch.OutOfMemoryError):
        timed(open_engine(order), order, lambda _: None)
