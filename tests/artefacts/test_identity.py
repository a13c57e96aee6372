"""Two files of one model, or of two: the refusal says which kind of other it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8scope.artefacts.identity import check_same_model
from fp8scope.artefacts.times import read_times
from fp8scope.errors import BadInput, Stale

MODEL = {"architecture": "Llama", "config_hash": "c", "weights_hash": "w", "name": "a"}
BOTH = {"config_hash": "x", "weights_hash": "x"}
BOTH = {"config_hash": "x", "weights_hash": "x"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_hash": "x"}, "to the profile (another fine-tune: the weights differ)"),
        ({"config_hash": "x"}, "(the weights are the same, but config.json differs)"),
        (BOTH, "(another model: config.json and the weights differ)"),
        ({"architecture": "Opt", "config_hash": "x"}, "of another architecture: Opt, the profile"),
        ({"weights_hash": "memory:w"}, "of files, it.json of a model in memory"),
    ],
)  # fmt: skip
def test_another_model(changes: dict[str, str], said: str) -> None:
    with pytest.raises(Stale) as refused:
        check_same_model(MODEL | changes, "it.json", MODEL, "the profile", "scan again")
    assert said in str(refused.value)
    assert " → scan " in str(refused.value)
    assert refused.value.exit_code == 2


def test_names_and_what_one_side_does_not_say_are_no_difference() -> None:
    check_same_model(MODEL | {"name": "b"}, "it", MODEL, "that", "")
    without = {key: MODEL[key] for key in ("config_hash", "weights_hash")}
    check_same_model(without, "it", MODEL, "that", "")
    check_same_model(MODEL, "it", without, "that", "")


VERDICT: dict[str, Any] = {
    "format": "fp8scope-verdict",
    "version": 1,
    "model": {"config_hash": "c", "weights_hash": "w"},
    "groups": [{"name": "g", "time_us": {"bf16": 2.0}}],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "fp8scope-plan"}, "is no verdict of fp8scope"),
        ({"version": 2}, "version: Input should be 1"),
        ({"model": {"config_hash": "c"}}, "model.weights_hash: Field required"),
        ({"groups": [{"name": "g", "time_us": {"bf16": 0}}]}, "groups.0.time_us.bf16: Input"),
        ({"groups": [{"name": "g", "time_us": {"bf16": 1e999}}]}, "groups.0.time_us.bf16: "),
    ],
)  # fmt: skip
def test_times_that_are_none(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(VERDICT | changes))
    with pytest.raises(BadInput) as refused:
        read_times(path)
    assert said in str(refused.value)
    path.write_text(json.dumps(VERDICT | {"more": "is left alone"}))
    assert read_times(path).groups[0].time_us == {"bf16": 2.0}
