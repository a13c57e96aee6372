"""verdict.json on disk: every damage is told, and nothing is half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.atomic import temporary_path
from fp8scope.artefacts.verdict import Verdict
from fp8scope.artefacts.verdict_file import read_verdict, write_verdict
from fp8scope.errors import BadInput, CannotWrite, DamagedVerdict, NotAVerdict, VerdictVersion
from tests.artefacts.verdicts import DOWN, HEAD, TIMES, verdict

DOCS = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_verdict(verdict(), tmp_path / "verdict.json")
    return tmp_path / "verdict.json"


def group(data: dict[str, Any], **changes: Any) -> None:
    data["groups"][0].update(changes)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[BadInput], str]] = {
    "format": (lambda d: d.update(format="fp8scope-plan"), NotAVerdict, "no verdict of fp8scope"),
    "no format": (lambda d: d.pop("format"), NotAVerdict, "is no verdict of fp8scope"),
    "version": (lambda d: d.update(version=2), VerdictVersion, "version 2, this release reads 1"),
    "realized": (lambda d: group(d, realized="fp4"), DamagedVerdict, "groups.0.realized: Input"),
    "no hash": (lambda d: d["model"].pop("weights_hash"), DamagedVerdict, "model.weights_hash"),
    "unknown field": (lambda d: d.update(more=1), DamagedVerdict, "more: Extra inputs"),
    "missing field": (lambda d: d.pop("unseen"), DamagedVerdict, "unseen: Field required"),
    "no time": (
        lambda d: group(d, time_us={"bf16": 0}), DamagedVerdict, "groups.0.time_us.bf16: Input"
    ),
    "a time of what no plan can choose": (
        lambda d: group(d, time_us={"int8_weight": 1}), DamagedVerdict, "time_us.int8_weight"
    ),
    "infinite": (
        lambda d: group(d, time_us={"bf16": math.inf}), DamagedVerdict, "groups.0.time_us.bf16"
    ),
    "counts": (lambda d: d.update(expected=2), DamagedVerdict, "are not the counts of its groups"),
    "one not in FP8": (
        lambda d: group(d, realized="bf16"), DamagedVerdict, "are not the counts of its groups"
    ),
    "share": (lambda d: d.update(fp8_share=0.5), DamagedVerdict, "fp8_share is not in_fp8 over"),
    "twice": (lambda d: d["groups"].append(d["groups"][1]), DamagedVerdict, "lm_head is there twi"),
    "CPU": (lambda d: d["ran"].update(device="cpu"), DamagedVerdict, "and ran on a CPU"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_verdict(name: str, path: Path) -> None:
    change, refusal, said = EDITS[name]
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(refusal) as refused:
        read_verdict(path)
    assert type(refused.value) is refusal
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_verdict(kept: float, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(NotAVerdict, match="is not JSON, or cut off"):
        read_verdict(path)


def test_a_verdict_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_verdict(tmp_path / "none.json")


def test_what_is_written_is_what_is_read(path: Path) -> None:
    assert read_verdict(path) == verdict()
    again = path.with_name("again.json")
    write_verdict(read_verdict(path), again)
    assert again.read_bytes() == path.read_bytes()
    assert not temporary_path(path).exists()
    with pytest.raises(CannotWrite):
        write_verdict(verdict(), path / "below" / "a file.json")


def test_the_schema_is_that_of_the_classes() -> None:
    schema = json.dumps(Verdict.model_json_schema(), indent=1, sort_keys=True) + "\n"
    assert (DOCS / "verdict.schema.json").read_text() == schema


def test_times_are_of_what_has_any() -> None:
    assert verdict().times_us() == TIMES
    assert verdict({DOWN: {}, HEAD: {"bf16": 1.0}}).times_us() == {HEAD: {"bf16": 1.0}}


def test_only_a_gate_that_failed_fails() -> None:
    gate = verdict().gates[0]
    unknown = gate.model_copy(update={"name": "sm_active", "outcome": "not_measured"})
    failed = gate.model_copy(update={"outcome": "failed"})
    assert verdict(gates=(gate, unknown)).passed
    assert not verdict(gates=(gate, failed)).passed
