"""Our matchers against the recorded answers of vLLM's own: not one may differ."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fp8scope.export.matchers import vllm_match as ours
from fp8scope.export.matchers.vllm_names import Mapper

TABLES = Path(__file__).parent / "tables"
Fused = list[dict[str, list[str]]]
Answer = Callable[[list[Any], Fused], Any]


def skipped(case: list[Any], fused: Fused) -> bool:
    return ours.is_skipped(case[0], case[1], fused[case[2]], case[3])


def excluded(case: list[Any], fused: Fused) -> bool:
    return ours.is_excluded(case[0], case[1], fused[case[2]])


def mapped(case: list[Any], _: Fused) -> list[str]:
    renamed = map(Mapper(**case[1]).name, ours.without_stars(case[0]))
    return [name for name in renamed if name is not None]


def mixed(case: list[Any], fused: Fused) -> str | None:
    layers = {name: {"quant_algo": algorithm} for name, algorithm in case[1].items()}
    found = ours.mixed_algorithm(case[0], layers, fused[case[2]])
    return found and found[0]


def ignored(case: list[Any], fused: Fused) -> bool:
    return ours.is_ignored(case[0], case[1], fused[case[2]], wildcards=case[3])


def target(case: list[Any], fused: Fused) -> str | None:
    return ours.matched_target(case[0], case[1], case[2], fused[case[3]])


def online(case: list[Any], fused: Fused) -> list[str]:
    found = ours.online_target(case[0], case[1], fused[case[2]])
    return [] if found is None else [found]


def renamed(case: list[Any], _: Fused) -> str | None:
    return Mapper(**case[1]).name(case[0])


MATCHERS: list[tuple[str, Answer]] = [
    ("is-layer-skipped", skipped),
    ("modelopt-excluded", excluded),
    ("modelopt-mapped", mapped),
    ("modelopt-mixed", mixed),
    ("should-ignore-layer", ignored),
    ("find-matched-target", target),
    ("online-targets", online),
    ("weights-mapper", renamed),
]


def answer(matcher: Answer, case: list[Any], fused: Fused) -> Any:
    try:
        return matcher(case, fused)
    except ours.Conflict:
        return "raises ValueError"
    except re.error:
        return "raises error"


def recorded(table: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((TABLES / f"vllm-0.33.0-{table}.json").read_text())
    return known


@pytest.mark.parametrize(("table", "matcher"), MATCHERS)
def test_not_one_recorded_answer_differs(table: str, matcher: Answer) -> None:
    rows = recorded(table)
    assert rows["about"]["vllm"] == "0.33.0"
    cases, fused = rows["cases"], rows["fused"]
    assert len(cases) >= 500
    assert [c for c in cases if answer(matcher, c, fused) != c[-1]] == []
