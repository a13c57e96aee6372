"""Plain names of what stays in BF16."""

from __future__ import annotations

import json

from fp8scope.export.registry import consumer
from tests.export.shapes import DOWN0, check_golden, llama, mixtral, planned

EXPERTS0 = "model.layers.0.mlp.experts"


def test_llama_names_are_those_of_the_files() -> None:
    model = planned(llama(), "fp8_tensor", [DOWN0, "model.layers.1.self_attn.qkv_proj"])
    document = consumer("list").write(model)  # type: ignore[misc]
    attention = [f"model.layers.1.self_attn.{n}_proj" for n in "qkv"]
    assert json.loads(document.forms["json"].text) == [DOWN0, *attention, "lm_head"]
    check_golden("list-llama", document.forms["text"])


def test_mixtral_experts_lie_apart_in_the_files_and_are_two_stacks_at_run_time() -> None:
    model = planned(mixtral(), "fp8_token", [EXPERTS0])
    forms = consumer("list").write(model).forms  # type: ignore[misc]
    files = json.loads(forms["json"].text)
    assert len(files) == 12 + 2 + 1  # experts of block 0, two routers, lm_head
    assert "model.layers.0.block_sparse_moe.experts.3.w2" in files
    named = [line for line in forms["runtime"].text.splitlines() if not line.startswith("#")]
    assert named == [
        "model.layers.0.mlp.gate",
        f"{EXPERTS0}.gate_up_proj",
        f"{EXPERTS0}.down_proj",
        "model.layers.1.mlp.gate",
        "lm_head",
    ]


def test_nothing_to_exclude_is_said() -> None:
    model = llama().with_wanted(lambda _: "fp8_tensor")
    forms = consumer("list").write(model).forms  # type: ignore[misc]
    lines = forms["text"].text.splitlines()
    assert lines[-1] == "# nothing to exclude: every linear runs in FP8"
    assert all(line.startswith("#") for line in lines)
    assert json.loads(forms["json"].text) == []
