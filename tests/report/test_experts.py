"""Dead and starved experts: counted, told apart by tag, and shown worst first."""

from __future__ import annotations

from io import StringIO

import numpy as np
from rich.console import Console

from fp8scope.analyze.coverage import Coverage, expert_coverage
from fp8scope.analyze.thresholds import STARVED_TOKENS
from fp8scope.core.magnitude import BF16
from fp8scope.core.sites import Role, Site
from fp8scope.profile.record import ExpertRecord, Profile
from fp8scope.report.experts import coverage_row, coverage_table
from tests.profiles import build

FEW = STARVED_TOKENS - 1


def of_tokens(*layers: list[list[int]]) -> Profile:
    """A profile whose layer i routed layers[i][tag][expert] tokens."""
    experts = {}
    for layer, tokens in enumerate(layers):
        for part in ("gate_up_proj", "down_proj"):
            record = ExpertRecord.empty(BF16, tags=2, experts=len(tokens[0]), channels=2)
            record.tokens[:] = tokens
            experts[Site(f"model.layers.{layer}.mlp.experts.{part}", Role.INPUT)] = record
    return build(experts=experts)


FULL = [[500, 500, 500, 500], [500, 500, 500, 500]]
SHORT = [[500, 0, FEW, 500], [500, 0, 0, FEW]]
FEWER = [[0, 0, FEW - 1, 0], [0, 0, 1, STARVED_TOKENS]]


def shown(found: list[Coverage], count: int = 9) -> str:
    console = Console(file=StringIO(), width=100, color_system=None, highlight=False)
    console.print(coverage_table(found, count))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_dead_and_starved_experts_by_tag_the_worst_layer_first() -> None:
    found = expert_coverage(of_tokens(FULL, SHORT, FEWER))
    assert [row.module.split(".")[2] for row in found] == ["2", "1", "0"]
    worst, short, full = found
    assert (short.whole.dead, short.whole.starved) == ([1], [2])
    assert (short.tags["prose"].dead, short.tags["prose"].starved) == ([1], [2])
    assert (short.tags["code"].dead, short.tags["code"].starved) == ([1, 2], [3])
    assert (worst.whole.dead, worst.whole.starved) == ([0, 1], [2])
    assert (full.whole.dead, full.whole.starved) == ([], [])
    assert coverage_row(short)["tokens"] == np.sum(SHORT, axis=0).tolist()
    assert coverage_row(short)["tags"]["code"] == {
        "tokens": SHORT[1],
        "dead": [1, 2],
        "starved": [3],
    }


def test_the_table_and_the_sentence_above_it() -> None:
    found = expert_coverage(of_tokens(FULL, SHORT, FEWER))
    text = shown(found)
    assert "12 routed experts in 3 layers: 3 dead (no token), 2 starved" in text
    assert "first 2 of 2 layers" in text
    lines = [" ".join(line.split()) for line in text.splitlines() if line.startswith("layers.")]
    assert lines == [
        "layers.2.mlp.experts 4 2 1 0 0 100 3 + 1 2 + 1",
        "layers.1.mlp.experts 4 1 1 0 99 1,000 1 + 1 2 + 1",
    ]
    assert "layers.1" not in shown(found, 1)


def test_nothing_short_is_one_sentence() -> None:
    text = shown(expert_coverage(of_tokens(FULL)))
    said = "4 routed experts in 1 layer: 0 dead (no token), 0 starved (under 100 tokens)."
    assert text.strip() == said


def test_a_model_without_experts_has_no_coverage() -> None:
    assert expert_coverage(build(experts={})) == []
