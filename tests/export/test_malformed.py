"""Configs of which some value is of the wrong kind: one clear line, never a fault of ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput
from fp8scope.export.checking import check
from fp8scope.export.registry import all_consumers
from tests.export import plans, shapes

WRONG: list[Any] = [3, "x", [], {}, [3], [None], {"a": 1}, None, 1.5, ["re:("], [[]]]
GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    "input_activations": {
        "num_bits": 8,
        "type": "float",
        "strategy": "group",
        "group_size": 128,
        "dynamic": True,
    },
}
WHOLE: dict[str, dict[str, Any]] = {
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": GROUP},
        "ignore": ["lm_head"],
    },
    "fp8": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "ignored_layers": ["lm_head"],
    },
    "modelopt metadata": {
        "producer": {"name": "modelopt"},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "exclude_modules": ["lm_head"],
            "quantized_layers": {shapes.DOWN0: {"quant_algo": "FP8_PB_WO", "group_size": 128}},
        },
    },
    "fbgemm": {
        "quant_method": "fbgemm_fp8",
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": ["lm_head"],
    },
    "modelopt": {
        "quant_cfg": [
            {"quantizer_name": "*", "cfg": {"num_bits": [4, 3], "block_sizes": {"-1": 128}}}
        ]
    },
    "llm-compressor": {
        "quant_stage": {
            "quant_modifiers": {
                "QuantizationModifier": {"config_groups": {"group_0": GROUP}, "ignore": ["lm_head"]}
            }
        }
    },
    "torchao": {
        "quant_method": "torchao",
        "quant_type": {
            "default": {
                "_type": "FqnToConfig",
                "_data": {
                    "fqn_to_config": {
                        shapes.DOWN0: {
                            "_type": "Float8DynamicActivationFloat8WeightConfig",
                            "_data": {"granularity": [{"_type": "PerRow", "_data": {"dim": -1}}]},
                        }
                    }
                },
            }
        },
        "modules_to_not_convert": ["lm_head"],
    },
    "transformer-engine": {
        "section": {
            "enabled": True,
            "layers": {"layer_name_regex_pattern": "x"},
            "transformer_engine": {"DisableQuantizationLayer": {"enabled": True}},
        }
    },
    "trtllm": {
        "quant_config": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        "kv_cache_config": {"dtype": "auto"},
    },
    "vllm": {"targets": {shapes.DOWN0: "fp8_per_tensor"}, "ignore": ["lm_head"]},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = shapes.planned(shapes.llama(1), "fp8_token")
    return plans.write(plans.plan_of(model), tmp_path_factory.mktemp("plan") / "plan.json")


def _spoiled(data: Any) -> Iterator[Any]:
    """Every value in it replaced by what it should not be, one at a time."""
    for key in data if isinstance(data, dict) else range(len(data)):
        for wrong in WRONG:
            spoiled = copy.deepcopy(data)
            spoiled[key] = wrong
            yield spoiled
        if isinstance(data[key], dict | list):
            for inner in _spoiled(data[key]):
                spoiled = copy.deepcopy(data)
                spoiled[key] = inner
                yield spoiled


@pytest.mark.parametrize("form", WHOLE)
def test_wrong_kinds_are_read_or_refused(form: str, plan: Path, tmp_path: Path) -> None:
    path, refused = tmp_path / "config.json", []
    for data in _spoiled(WHOLE[form]):
        path.write_text(json.dumps(data))
        for consumer in all_consumers():
            for version in consumer.versions if consumer.reads else ():
                try:
                    check(path, consumer.name, version=version, model=str(plan))
                except BadInput as error:
                    refused.append(str(error))
    assert len(refused) > 20
    assert not any("\n" in line for line in refused)


def test_one_name_for_a_list_is_refused_and_not_spelled_out(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(WHOLE["compressed-tensors"] | {"ignore": "lm_head"}))
    for engine in "vllm", "sglang", "trtllm":
        with pytest.raises(BadInput, match=r"ignore of .* is not a list of names"):
            check(path, engine, model=str(plan))


def test_an_alias_that_holds_itself(plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [*a]\n")
    with pytest.raises(BadInput, match="holds no quantization config"):
        check(path, "vllm", model=str(plan))


@pytest.mark.parametrize("tens", [0, 9])
def test_aliases_without_end(tens: int, plan: Path, tmp_path: Path) -> None:
    """A list in itself, or a billion names in ten lines."""
    lines = ["quant_stage: {a_modifiers: {QuantizationModifier: {ignore: [lm_head]}}}"]
    lines += ["a0: &a0 [*a0]" if tens == 0 else "a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, tens + 1)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match="unfolds to over 2,000,000 values by its aliases"):
        check(path, "llm-compressor", model=str(plan))
