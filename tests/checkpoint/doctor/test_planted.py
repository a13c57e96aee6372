"""Healthy checkpoints of many producers, each spoilt in one way that people really spoil them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor.zoo.corruptions import Planted
from tests.checkpoint.doctor.zoo.editing import copy
from tests.checkpoint.doctor.zoo.planted_metadata import FILES, LISTS, METADATA, PLANS
from tests.checkpoint.doctor.zoo.planted_tensors import SCALES, VALUES

PLANTED = (*VALUES, *SCALES, *LISTS, *METADATA, *FILES, *PLANS)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: f"{p.fixture}: {p.what}")
def test_each_fault_is_named_once_and_alone(planted: Planted, tmp_path: Path) -> None:
    checkpoint = copy(planted.fixture, tmp_path)
    planted.spoil(checkpoint)
    found = examine(checkpoint.folder)
    fault = next((each for each in found.faults if each.code == planted.code), None)
    assert fault is not None, found.faults
    assert fault.severity == planted.severity
    assert any(planted.where in text for text in (*fault.where, fault.what)), fault
    assert fault.remedy
    errors = {each.code for each in found.errors}
    own = {planted.code} if planted.severity == "error" else set()
    assert errors <= own | set(planted.companions), found.errors
