"""How engines spell the ranges of their modules, after the hooks in their sources."""

from __future__ import annotations

import pytest

from fp8scope.traces.module_ranges import module_of
from fp8scope.traces.ranges import of_interest

VLLM = "{'Module': 'top.model.layers.0.mlp.down_proj', 'Inputs': [[8, 64]]}"
TRTLLM = "{'Module': 'LlamaForCausalLM.model.layers.3.self_attn.qkv_proj', 'TrainableParams': {}}"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        (VLLM, "model.layers.0.mlp.down_proj"),
        (TRTLLM, "model.layers.3.self_attn.qkv_proj"),
        ("{'Module': \"top.it's\", 'Inputs': [[1]]}", "it's"),
        ("{'Module': 'top', 'Inputs': [[8]]}", ""),
        ("{'Module': 'top.lm_head', 'Outputs': [[8, 32000]]}", ""),
        ("{'Module': 'Torch Compiled Module (input):LlamaModel', 'Inputs': [[8]]}", ""),
        ("execute_model", ""),
        ("", ""),
    ],
)
def test_a_module_as_the_model_calls_it(text: str, module: str) -> None:
    assert module_of(text) == module


def test_modules_are_taken_where_none_of_our_ranges_is_around() -> None:
    step, module = ("NVTX", "execute_model"), ("", VLLM)
    assert of_interest([("fp8scope", "decode"), step, module]) == ("decode",)
    assert of_interest([step, module]) == ("model.layers.0.mlp.down_proj",)
    assert of_interest([step]) == ("execute_model",)
