"""Our matchers against the recorded answers of SGLang's own: not one may differ."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fp8scope.export.matchers import sglang_match as ours

TABLES = Path(__file__).parent / "tables"
WHEEL = "sglang-0.5.23-cp311-cp311-manylinux_2_34_x86_64.whl"
SHA256 = "00b3cd5b265ac76c64185fbb6b95424f324ddd9f428d0306b77bc9db9d859937"

Answer = Callable[[list[Any], list[dict[str, list[str]]]], Any]


def skipped(case: list[Any], fused: list[dict[str, list[str]]]) -> bool:
    return ours.is_skipped(case[0], case[1], fused[case[2]])


def excluded(case: list[Any], _: list[dict[str, list[str]]]) -> bool:
    return ours.is_excluded(case[0], case[1])


def ignored(case: list[Any], fused: list[dict[str, list[str]]]) -> bool:
    return ours.is_ignored(case[0], case[1], fused[case[2]])


def target(case: list[Any], fused: list[dict[str, list[str]]]) -> str:
    found = ours.matched_target(case[0], case[1], case[2], fused[case[3]])
    return "raises ValueError" if found is None else found


def normalised(case: list[Any], _: list[dict[str, list[str]]]) -> list[str]:
    config = case[0]
    key = "ignored_layers" if "ignored_layers" in config else "modules_to_not_convert"
    return ours.normalised(config[key])


def renamed(case: list[Any], _: list[dict[str, list[str]]]) -> list[str]:
    name = ours.Mapper(**case[1]).name(case[0])
    return [] if name is None else [name]


MATCHERS: list[tuple[str, Answer]] = [
    ("is-layer-skipped", skipped),
    ("is-layer-excluded", excluded),
    ("should-ignore-layer", ignored),
    ("find-matched-target", target),
    ("fp8-normalisation", normalised),
    ("weights-mapper", renamed),
]


def answer(matcher: Answer, case: list[Any], fused: list[dict[str, list[str]]]) -> Any:
    try:
        return matcher(case, fused)
    except ours.Split:
        return "raises ValueError"
    except re.error:
        return "raises error"


@pytest.mark.parametrize(("table", "matcher"), MATCHERS)
def test_not_one_recorded_answer_differs(table: str, matcher: Answer) -> None:
    recorded = json.loads((TABLES / f"sglang-0.5.23-{table}.json").read_text())
    assert (recorded["about"]["wheel"], recorded["about"]["sha256"]) == (WHEEL, SHA256)
    cases = recorded["cases"]
    assert len(cases) == 640
    fused = recorded["fused"]
    assert [c for c in cases if answer(matcher, c, fused) != c[-1]] == []


def test_the_tables_hold_every_kind_of_answer() -> None:
    kinds = {
        table: Counter(
            str(case[-1]) if isinstance(case[-1], bool | str) else "list"
            for case in json.loads((TABLES / f"sglang-0.5.23-{table}.json").read_text())["cases"]
        )
        for table in ("is-layer-skipped", "is-layer-excluded", "should-ignore-layer")
    }
    assert kinds == {
        "is-layer-skipped": {"True": 305, "False": 315, "raises ValueError": 20},
        "is-layer-excluded": {"True": 314, "False": 241, "raises error": 85},
        "should-ignore-layer": {"True": 243, "False": 384, "raises ValueError": 13},
    }
