"""docs/reference/findings.md: its thresholds are the code's, and no word of it is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from importlib import import_module
from typing import Any, get_args

import pytest

from fp8scope.analyze import convergence, kvcache, scaling, thresholds
from fp8scope.analyze.cause import Cause, Remedy
from fp8scope.artefacts.plan import Precision
from fp8scope.plan.objective import PRESETS
from tests.docs.pages import DOCS

PAGE = (DOCS / "reference" / "findings.md").read_text()
ROW = re.compile(r"^\| `([\w.]+)` \| ([\d.]+) \|", re.MULTILINE)
SHOWN = dict(ROW.findall(PAGE))
PRECISION = 5e-4
"""Relative; of a value that has more digits than the page shows."""


def in_code(name: str) -> Any:
    """`analyze.thresholds.FLOOR_DB`: two names of a module, then attributes or keys."""
    package, module, *path = name.split(".")
    found: Any = import_module(f"fp8scope.{package}.{module}")
    for part in path:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def constants() -> Iterator[str]:
    """Everything that the thresholds' module says, as a number."""
    for name, value in vars(thresholds).items():
        if name.isupper() and isinstance(value, int | float):
            yield f"analyze.thresholds.{name}"
    for preset, fields in PRESETS.items():
        yield from (f"plan.objective.PRESETS.{preset}.{field}" for field in fields._fields)


@pytest.mark.parametrize("name", SHOWN)
def test_a_threshold_is_that_of_the_code(name: str) -> None:
    assert float(SHOWN[name]) == pytest.approx(in_code(name), rel=PRECISION)


@pytest.mark.parametrize("name", list(constants()))
def test_no_threshold_is_missing(name: str) -> None:
    assert name in SHOWN


def test_every_row_of_the_table_is_read() -> None:
    table = PAGE.partition("| name | value |")[2].partition("\n\n")[0]
    assert len(SHOWN) == len(table.splitlines()) - 2


WORDS: tuple[type[StrEnum], ...] = (Cause, Remedy, convergence.State, scaling.Need, kvcache.Safety)


@pytest.mark.parametrize(("of", "word"), [(of.__name__, str(word)) for of in WORDS for word in of])
def test_every_verdict_has_its_row(of: str, word: str) -> None:
    assert re.search(rf"^\| `{re.escape(word)}` \|", PAGE, re.MULTILINE), of


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_precision_is_named(precision: str) -> None:
    assert f"`{precision}`" in PAGE
