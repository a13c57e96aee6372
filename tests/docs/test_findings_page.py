"""docs/reference/findings.md: thresholds are those of the code, no word of `analyze` is missing."""

from __future__ import annotations

import re
from enum import StrEnum
from types import ModuleType
from typing import get_args

import pytest

from fp8scope.analyze import compare, convergence, kvcache, saturation, scaling, thresholds
from fp8scope.analyze.cause import Cause, Remedy
from fp8scope.artefacts.plan import Precision
from fp8scope.core import histogram
from fp8scope.judge import bound, expected, gates, sight
from fp8scope.observe import sensitivity
from fp8scope.plan import certainty, problem
from fp8scope.plan.objective import PRESETS
from fp8scope.traces import precision
from tests.docs.commands_page import command
from tests.docs.pages import DOCS

PAGE = (DOCS / "reference" / "findings.md").read_text()
MODULES = (
    *(certainty, compare, convergence, histogram),
    *(problem, saturation, scaling, sensitivity),
    *(bound, expected, gates, precision, sight),  # of verdicts
)
"""Those that the page names beside `thresholds`."""
ROUNDED = 5e-4
"""Relative; of a value that has more digits than the page shows."""


def rows(header: str) -> list[list[str]]:
    """The cells of the table under this header, without backquotes."""
    table = PAGE.partition(header)[2].partition("\n\n")[0]
    return [
        [cell.strip(" `") for cell in line.strip("|").split(" | ")]
        for line in table.splitlines()[2:]
    ]


def in_code(name: str) -> float:
    """`FLOOR_DB` of the thresholds, or `compare.STANDS_OUT`."""
    module, _, constant = name.rpartition(".")
    named: dict[str, ModuleType] = {m.__name__.rpartition(".")[2]: m for m in MODULES}
    return float(getattr(named[module] if module else thresholds, constant))


SHOWN = {name: value for name, value, *_ in rows("| name | value |")}


@pytest.mark.parametrize("name", SHOWN)
def test_a_threshold_is_that_of_the_code(name: str) -> None:
    assert float(SHOWN[name]) == pytest.approx(in_code(name), rel=ROUNDED)


def test_no_threshold_is_missing() -> None:
    numbers = {n for n, v in vars(thresholds).items() if n.isupper() and isinstance(v, int | float)}
    assert numbers == {name for name in SHOWN if "." not in name}


def test_the_gate_of_the_command_is_that_of_the_code() -> None:
    (option,) = [each for each in command("verify").params if each.name == "min_sm_active"]
    assert option.default == gates.SM_ACTIVE == gates.Limits().sm_active


def test_the_presets_are_those_of_the_code() -> None:
    shown = {
        name: tuple(map(float, fields)) for name, *fields in rows("| preset | times | least |")
    }
    assert shown == PRESETS


WORDS: tuple[type[StrEnum], ...] = (Cause, Remedy, convergence.State, scaling.Need, kvcache.Safety)


@pytest.mark.parametrize("of", WORDS)
def test_every_verdict_has_its_row(of: type[StrEnum]) -> None:
    missing = [word for word in of if not re.search(rf"^\| `{re.escape(word)}` \|", PAGE, re.M)]
    assert not missing


@pytest.mark.parametrize("name", get_args(Precision))
def test_every_precision_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE
