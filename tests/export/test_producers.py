"""Checkpoints as their producers wrote them: vLLM runs them as their tensors say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fp8scope.export.checking import check

MADE = Path(__file__).parents[1] / "checkpoint" / "doctor" / "zoo" / "checkpoints"


@pytest.mark.parametrize(
    "name",
    [
        "autofp8-static-kv", "compressed-tensors-groups", "llm-compressor-dynamic",
        "llm-compressor-kv", "llm-compressor-mixtral", "llm-compressor-static", "modelopt-block",
        "modelopt-fp8-excluded", "modelopt-fp8-kv", "modelopt-mixed", "modelopt-mixtral",
        "modelopt-per-channel-per-token", "modelopt-phi3",
    ],
)  # fmt: skip
def test_vllm_runs_them_as_they_are_stored(name: str) -> None:
    found = check(MADE / name, "vllm")
    assert [fault.sentence for fault in found.proof.faults] == []
    assert found.proof.rows
    assert found.proof.holds


def test_a_list_may_name_embeddings() -> None:
    """ModelOpt lists them, and they are no linears: that is no entry which matches nothing."""
    text = (MADE / "modelopt-fp8-kv" / "config.json").read_text()
    assert "model.embed_tokens" in text
    assert check(MADE / "modelopt-fp8-kv", "trtllm").proof.holds
