"""Codes: what the source gives, what the documentation says, and what tests plant are the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fp8scope.checkpoint.doctor.codes import CODES, GROUPS
from fp8scope.checkpoint.doctor.diagnosis import Fault

HERE = Path(__file__)
ROOT = HERE.parents[3]
SOURCE = ROOT / "fp8scope" / "checkpoint"
ROW = re.compile(r"^\| `([a-z][a-z0-9-]+)` \| ([a-z ]+) \| (.+) \|$", re.MULTILINE)


def words(folder: Path, *without: str) -> set[str]:
    """Every string in its Python, those included that an f-string ends with a literal."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.name in without:
            continue
        tree = ast.parse(path.read_text())
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return found


def test_the_documentation_has_every_code_and_no_other() -> None:
    text = (ROOT / "docs" / "reference" / "checkpoint.md").read_text()
    said = {code: (severity, what) for code, severity, what in ROW.findall(text)}
    known = {code: (" or ".join(severity), what) for code, (severity, what) in CODES.items()}
    assert said == known
    assert len(said) == sum(len(group) for group in GROUPS.values()) > 70
    assert all(f"### {title}" in text for title in GROUPS)


def test_the_source_gives_every_code() -> None:
    composed = {f"{part}-{end}" for part in ("config", "metadata") for end in ("unreadable",)}
    given = words(SOURCE, "codes.py") | composed | {"config-missing"}
    assert CODES.keys() - given == set()


def test_every_code_is_planted_by_some_test() -> None:
    assert CODES.keys() - words(HERE.parent, HERE.name) == set()


def test_a_fault_has_a_known_code_of_its_severity() -> None:
    with pytest.raises(KeyError):
        Fault("fp8-sad", "error", "it is", "cheer it")
    with pytest.raises(ValueError, match="fp8-nan is no warning"):
        Fault("fp8-nan", "warning", "it is", "mend it")
