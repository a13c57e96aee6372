"""Two files of one model, or of two: the refusal says which kind of other it is."""

from __future__ import annotations

import pytest

from fp8scope.artefacts.identity import check_same_model
from fp8scope.errors import Stale

MODEL = {"architecture": "Llama", "config_hash": "c", "weights_hash": "w", "name": "a"}
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
