"""What a config says where nobody looks, nothing in FP8, and the KV cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fp8scope.errors import BadInput
from fp8scope.export.checking import Checked, check, export_plan
from fp8scope.export.consumer import CannotExpress, Config
from fp8scope.export.neglected import cache_of
from tests.export import plans, shapes

LLAMA = shapes.planned(shapes.llama(), "fp8_tensor")
NESTED: dict[str, Any] = {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}


def _check(tmp_path: Path, data: Any, by: str, kv: str = "bf16", name: str = "c.json") -> Checked:
    config = tmp_path / name
    config.write_text(json.dumps(data))
    plan = plans.plan_of(LLAMA)
    if kv == "fp8":
        cache = {"layer": 0, "attention": "a", "name": "a.kv", "precision": "fp8"}
        plan = type(plan).model_validate({**plan.model_dump(), "kv_cache": [cache]})
    path = plans.write(plan, tmp_path / "plan.json")
    return check(config, by, model=str(path))


def _said(checked: Checked) -> list[str]:
    return [fault.sentence for fault in checked.proof.faults]


def test_a_misspelt_key(tmp_path: Path) -> None:
    data = {"quantization": {"quant_algo": "FP8", "exclude_module": ["lm_head"]}}
    assert "exclude_module is read by nobody; there is exclude_modules" in _said(
        _check(tmp_path, data, "vllm")
    )


def test_a_key_that_this_consumer_passes_over(tmp_path: Path) -> None:
    flat = {"quant_method": "modelopt", **NESTED}
    said = "exclude_modules is not read here, so what it names is not excluded"
    assert said in _said(_check(tmp_path, flat, "sglang"))
    assert _said(_check(tmp_path, flat, "vllm")) == []


def test_an_entry_that_is_no_expression(tmp_path: Path) -> None:
    data = {"linear": "fp8_per_channel", "ignore": ["re:*.down_proj"]}
    said = _said(_check(tmp_path, data, "vllm"))
    assert (
        "ignore “re:*.down_proj” is no regular expression (nothing to repeat at position 0)" in said
    )


def test_a_recipe_that_is_read_as_nothing(tmp_path: Path) -> None:
    modifier = {"targets": "Linear", "scheme": "FP8", "ignore": ["lm_head"]}
    without_stage = {"QuantizationModifier": modifier}
    checked = _check(tmp_path, without_stage, "llm-compressor")
    assert not checked.proof.holds
    assert "ignore is not read here, so what it names is not excluded" in _said(checked)


def test_everything_switched_off_by_the_last_entry(tmp_path: Path) -> None:
    on = {"num_bits": [4, 3], "axis": None}
    quant_cfg = {"*weight_quantizer": on, "*input_quantizer": on, "default": {"enable": False}}
    path = tmp_path / "quant_cfg.json"
    path.write_text(json.dumps({"quant_cfg": quant_cfg, "algorithm": "max"}))
    folder = plans.write(plans.plan_of(LLAMA), tmp_path / "plan.json")
    assert not check(path, "modelopt", model=str(folder)).proof.holds


@pytest.mark.parametrize("said", [None, "FP8"])
@pytest.mark.parametrize("wanted", ["bf16", "fp8"])
def test_the_kv_cache(tmp_path: Path, said: str | None, wanted: str) -> None:
    data = {"quantization": {**NESTED, "kv_cache_quant_algo": said}}
    checked = _check(tmp_path, data, "vllm", kv=wanted)
    assert checked.proof.holds == ((said is None) == (wanted == "bf16"))
    if not checked.proof.holds:
        words = ("BF16", "FP8") if wanted == "fp8" else ("FP8", "BF16")
        assert _said(checked) == [f"the KV cache will be in {words[0]} and should be {words[1]}"]
        assert checked.corrected is not None
        again = checked.corrected.config["quantization"]["kv_cache_quant_algo"]
        assert again == ("FP8" if wanted == "fp8" else None)


@pytest.mark.parametrize(
    ("form", "data", "cache"),
    [
        ("hf-quant-config", {"quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8}}, "fp8"),
        ("compressed-tensors", {"kv_cache_scheme": None}, "bf16"),
        ("compressed-tensors", {"kv_cache_scheme": {"num_bits": 8}}, "fp8"),
        ("llm-compressor", {"s_stage": {"m": {"kv_cache_scheme": {"num_bits": 8}}}}, "fp8"),
        ("modelopt", {"quant_cfg": {"*[kv]_bmm_quantizer": {"num_bits": [4, 3]}}}, "fp8"),
        (
            "modelopt",
            {"quant_cfg": [{"quantizer_name": "*[kv]_bmm_quantizer", "enable": False}]},
            "bf16",
        ),
        ("vllm", {"linear": "fp8_per_block"}, None),
    ],
)
def test_what_each_form_says_of_the_cache(form: str, data: Any, cache: str | None) -> None:
    assert cache_of(Config(form, data, "here")) == cache


def test_a_plan_in_bf16_is_not_for_engines() -> None:
    plan = plans.plan_of(shapes.planned(shapes.llama(), "bf16"))
    for to in ("vllm", "trtllm", "hf-quant-config", "torchao"):
        with pytest.raises(CannotExpress, match="no layer of llama is in FP8"):
            export_plan(plan, to)
    assert "lm_head" in export_plan(plan, "list").forms["text"].text


def test_versions_and_names_are_taken_as_people_write_them(tmp_path: Path) -> None:
    path = plans.write(plans.plan_of(LLAMA), tmp_path / "plan.json")
    assert check(path, "vLLM", version="0.33").version == "0.33.0"
    assert check(path, "TensorRT-LLM", version="1.2.0").version == "1.2"
    for version in ("0.3", "0.8.0", "banana"):
        with pytest.raises(BadInput, match=r"its source was read at 0\.33\.0"):
            check(path, "vllm", version=version)


def test_scripts_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "serve.sh").write_text("vllm serve\n")
    with pytest.raises(BadInput, match="is a script, which is not read → check its JSON or YAML"):
        check(tmp_path / "serve.sh", "vllm", model="x")
