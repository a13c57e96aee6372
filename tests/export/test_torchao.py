"""What is written for torchao, and what it makes of configs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fp8scope.core.modules import Model
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Outcome
from fp8scope.export.consumers import torchao
from fp8scope.export.matchers.torchao_fqn import FLOAT8, read
from fp8scope.export.proof import prove
from tests.export.shapes import DOWN0, check_golden, config, gpt2, llama, mixtral, phi3, planned

EXPERTS0 = "model.layers.0.mlp.experts"
UP0 = f"{EXPERTS0}.gate_up_proj"
ROW = {"type": FLOAT8, "granularity": "PerRow()"}
TENSOR = {"type": FLOAT8, "granularity": "PerTensor()"}


def _outcomes(model: Model, data: dict[str, Any]) -> dict[str, Outcome]:
    reading = read(Config("torchao", data, "somebody's"), model, "0.18.0")
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


def _through_transformers(configs: dict[str, Any], skipped: list[str] | None) -> dict[str, Any]:
    whole = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": configs}}
    return {
        "quant_method": "torchao",
        "quant_type": {"default": whole},
        "modules_to_not_convert": skipped,
    }


MIXED = planned(llama(), "fp8_token", [DOWN0]).with_wanted(
    lambda m: (
        "bf16"
        if m.name in {DOWN0, "lm_head"}
        else ("fp8_block" if m.name == "model.layers.1.mlp.down_proj" else "fp8_token")
    )
)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("llama", MIXED),
        ("phi3", planned(phi3(), "fp8_token", ["model.layers.1.mlp.gate_up_proj"])),
        ("mixtral", planned(mixtral(), "fp8_token", [EXPERTS0])),
    ],
)
def test_written_files_do_just_what_is_wanted(name: str, model: Model) -> None:
    document = torchao.write(model)
    proof = prove(read(config("torchao", document), model, "0.18.0"))
    assert proof.holds, proof.faults
    parsed = Config("torchao", json.loads(document.forms["json"].text), "config.json")
    through = prove(read(parsed, model, "0.18.0"))
    assert through.holds, through.faults
    check_golden(f"torchao-{name}", document.forms["python"])


def test_stacks_in_bf16_are_left_out_because_none_twice_raises() -> None:
    written = torchao.write(planned(mixtral(), "fp8_token", [EXPERTS0])).config
    assert [name for name in written if ".experts." in name] == [
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj",
    ]
    outcome = _outcomes(mixtral(), {UP0: None, f"{EXPERTS0}.down_proj": None})[UP0]
    assert outcome.treatment is None
    assert "IndexError" in outcome.error


@pytest.mark.parametrize(
    ("model", "what", "remedy"),
    [
        (planned(llama(), "fp8_tensor"), "at run time", "fp8_token, PerRow"),
        (planned(llama(), "fp8_tensor"), "at run time", "--to hf-quant-config"),
        (planned(mixtral(), "fp8_block"), "per row only", "fp8_token"),
        (planned(llama(wide=200), "fp8_token"), "not in multiples of 16", "BF16"),
        (planned(llama(wide=320), "fp8_block"), "not in multiples of 128", "BF16"),
        (planned(gpt2(), "fp8_token"), "Conv1D", "BF16"),
    ],
)
def test_refusals_name_the_nearest(model: Model, what: str, remedy: str) -> None:
    with pytest.raises(CannotExpress) as refusal:
        torchao.write(model)
    assert what in str(refusal.value)
    assert remedy in (refusal.value.remedy or "")


def test_exact_names_before_patterns_before_default() -> None:
    data = {
        r"re:model\.layers\.\d+\.mlp\.down_proj": TENSOR,
        "_default": ROW,
        DOWN0: None,
        "model.layers.1.mlp.up_proj.weight": TENSOR,
        "model.layers.1.mlp.up_proj": ROW,
    }
    found = {name: outcome.treatment for name, outcome in _outcomes(llama(), data).items()}
    assert found[DOWN0] == "bf16"
    assert found["model.layers.1.mlp.down_proj"] == "fp8_tensor_dynamic"
    assert found["model.layers.1.mlp.up_proj"] == "fp8_tensor_dynamic"
    assert found["lm_head"] == "fp8_token"


def test_patterns_match_whole_names_and_default_reaches_no_experts() -> None:
    found = _outcomes(mixtral(), {"re:model.layers.0": None, "_default": ROW})
    assert found[UP0].treatment == "bf16"
    assert found["model.layers.0.mlp.gate"].treatment == "bf16"  # a router is no nn.Linear
    assert found["model.layers.0.self_attn.q_proj"].treatment == "fp8_token"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({r"re:.*up_proj\.weight": ROW, r"re:.*layers\.0.*weight": TENSOR}, "twice"),
        ({"model.layers.0.mlp.up_proj.weight": ROW, r"re:.*up_proj\.weight": TENSOR}, "twice"),
        ({r"re:model\.layers\.0\..*": ROW}, "model.layers.0.mlp has no weight"),
        ({"re:.*": ROW}, "the model itself has no weight"),
        ({"re:*.up_proj": ROW}, "re.error"),
    ],
)
def test_what_torchao_raises(data: dict[str, Any], error: str) -> None:
    outcome = _outcomes(llama(), data)["model.layers.0.mlp.up_proj"]
    assert outcome.treatment is None
    assert error in outcome.error


def test_a_module_of_experts_has_no_weight_but_transformers_takes_its_name() -> None:
    outcome = _outcomes(mixtral(), {EXPERTS0: ROW})[UP0]
    assert "model.layers.0.mlp.experts has no weight" in outcome.error
    through = _through_transformers({EXPERTS0: _json(ROW)}, [])
    assert _outcomes(mixtral(), through)[UP0].treatment == "fp8_token"


def _json(words: dict[str, Any]) -> dict[str, Any]:
    kind = words["granularity"].removesuffix("()")
    fields = {"dim": -1} if kind == "PerRow" else {}
    each = {"_type": kind, "_version": 1, "_data": fields}
    return {"_type": FLOAT8, "_version": 2, "_data": {"granularity": [each, each]}}


def test_through_transformers_lm_head_needs_an_empty_list() -> None:
    configs = {"lm_head": _json(ROW)}
    for skipped, treatment in ((None, "bf16"), ([], "fp8_token"), (["model"], "fp8_token")):
        found = _outcomes(llama(), _through_transformers(configs, skipped))
        assert found["lm_head"].treatment == treatment
    plain = {"quant_method": "torchao", "quant_type": {"default": _json(TENSOR)}}
    found = _outcomes(llama(), plain)
    assert [found[DOWN0].treatment, found["lm_head"].treatment] == ["fp8_tensor_dynamic", "bf16"]


def test_odd_shapes_stay_in_bf16_without_a_word() -> None:
    outcome = _outcomes(llama(wide=200), {DOWN0: ROW})[DOWN0]
    assert outcome.treatment == "bf16"
    assert "16 does not divide" in outcome.note


@pytest.mark.parametrize(
    ("words", "treatment"),
    [
        ({"type": FLOAT8}, "fp8_tensor_dynamic"),
        ({"type": FLOAT8, "granularity": "PerRow"}, "fp8_token"),
        ({"type": FLOAT8, "granularity": "PerGroup"}, "other"),
        ({"type": "Int8WeightOnlyConfig"}, "other"),
        (None, "bf16"),
    ],
)
def test_words(words: dict[str, Any] | None, treatment: str) -> None:
    assert _outcomes(llama(), {DOWN0: words})[DOWN0].treatment == treatment


@pytest.mark.parametrize("data", [[], {DOWN0: "PerRow"}, {"quant_type": {"other": {}}}])
def test_malformed(data: Any) -> None:
    with pytest.raises(CannotRead):
        read(Config("torchao", data, "x"), llama(), "0.18.0")
