"""What is written for ModelOpt, and what it makes of lists that people write."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotExpress, CannotRead, Config, Outcome, Reading
from fp8scope.export.consumers import modelopt
from fp8scope.export.intent import intended
from fp8scope.export.proof import prove
from tests.export.mixes import GPT2, LLAMA, MIXTRAL, MODELS, PLAIN
from tests.export.shapes import DOWN0, check_golden, config, llama, mixtral, planned

FP8 = {"num_bits": (4, 3), "axis": None}
PRESET: list[dict[str, Any]] = [  # as FP8_DEFAULT_CFG
    {"quantizer_name": "*", "enable": False},
    {"quantizer_name": "*weight_quantizer", "cfg": FP8},
    {"quantizer_name": "*input_quantizer", "cfg": FP8},
    {"quantizer_name": "*lm_head*", "enable": False},
    {"quantizer_name": "*router*", "enable": False},
]
DOWN1 = "model.layers.1.mlp.down_proj"
DOWN10 = "model.layers.10.mlp.down_proj"
UP0 = "model.layers.0.mlp.experts.gate_up_proj"


def _read(model: Model, data: Any) -> Reading:
    return modelopt.read(Config("modelopt", data, "quant.py"), model, "0.47.0")


def _with(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"quant_cfg": [*PRESET, *entries], "algorithm": "max"}


def _outcomes(model: Model, data: Any) -> dict[str, Outcome]:
    reading = _read(model, data)
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


@pytest.mark.parametrize("name", MODELS)
def test_written_files_do_just_what_is_wanted(name: str) -> None:
    model = MODELS[name]
    document = modelopt.write(model)
    assert document.kind == "recipe"
    proof = prove(modelopt.read(config("modelopt", document), model, "0.47.0"))
    assert proof.holds, proof.faults
    for form, found in document.forms.items():
        check_golden(f"modelopt-{name}-{form}", found)


@pytest.mark.parametrize("name", MODELS)
def test_all_forms_say_the_same(name: str) -> None:
    document = modelopt.write(MODELS[name])
    python: dict[str, Any] = {}
    exec(document.forms["python"].text, python)  # noqa: S102
    assert python["quant_cfg"] == document.config
    loader: dict[str, Any] = {"json": json, "open": None}
    line = document.use[1].replace("json.load(open('quant_cfg.json')", "json.loads(text")
    exec(line, loader | {"text": document.forms["json"].text}, loader)  # noqa: S102
    assert _as_lists(loader["quant_cfg"]) == _as_lists(document.config)
    assert prove(_read(MODELS[name], loader["quant_cfg"])).holds
    assert prove(_read(MODELS[name], yaml.safe_load(document.forms["recipe"].text))).holds


def _as_lists(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _as_lists(value) for key, value in data.items()}
    return [_as_lists(each) for each in data] if isinstance(data, list | tuple) else data


def test_without_a_plan_it_is_taken_as_it_says() -> None:
    reading = _read(LLAMA.with_wanted(lambda _: None), modelopt.write(LLAMA).config)
    meant = intended(LLAMA.with_wanted(lambda _: None), reading, reading)
    assert [m.wanted for m in meant.modules] == [m.wanted for m in LLAMA.modules]


def test_folding_is_said_where_comments_are_possible() -> None:
    forms = modelopt.write(LLAMA).forms
    assert [name for name, form in forms.items() if "fold smoothing" in form.text] == [
        "python",
        "recipe",
    ]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("fp8_tensor_dynamic", "dynamic input scales"), ("other", "another quantization")],
)
def test_what_it_has_no_words_for_is_refused(wanted: Treatment, words: str) -> None:
    with pytest.raises(CannotExpress, match=words):
        modelopt.write(planned(llama(), wanted))


def test_the_preset_with_an_exclusion() -> None:
    found = _outcomes(PLAIN, _with({"quantizer_name": f"{DOWN0}.*", "enable": False}))
    assert {name for name, o in found.items() if o.treatment == "bf16"} == {DOWN0, "lm_head"}
    assert prove(_read(PLAIN, _with({"quantizer_name": f"{DOWN0}.*", "enable": False}))).holds


def test_a_star_after_a_number_reaches_ten() -> None:
    data = _with(
        {"quantizer_name": f"{DOWN0}.*", "enable": False},
        {"quantizer_name": "model.layers.1*", "enable": False},
    )
    proof = prove(_read(PLAIN, data))
    (fault,) = proof.faults
    assert fault.kind == "too much"
    assert "“model.layers.1*” also matches" in fault.sentence
    assert "model.layers.10.self_attn.q_proj" in {row.layer.name for row in proof.differences}


@pytest.mark.parametrize("entry", [DOWN1, "down_proj", "block_sparse_moe.experts.0.w2.*"])
def test_an_entry_that_matches_nothing_is_found(entry: str) -> None:
    """Without its trailing `.*` a name matches nothing, as does one of the files'."""
    proof = prove(_read(PLAIN, _with({"quantizer_name": entry, "enable": False})))
    said = f"quant_cfg “{entry}” matches nothing"
    assert [f.kind for f in proof.faults if f.sentence.startswith(said)] == ["nothing"]


def test_the_order_decides() -> None:
    off = {"quantizer_name": f"{DOWN1}.*", "enable": False}
    on = {"quantizer_name": f"{DOWN1}.*_quantizer", "cfg": FP8}
    assert _outcomes(PLAIN, _with(off))[DOWN1].treatment == "bf16"
    late = _outcomes(PLAIN, _with(off, on))[DOWN1]
    assert late == Outcome("other", note="its output is quantized too")
    proof = prove(_read(PLAIN, _with({"quantizer_name": "*", "enable": False})))
    assert [f.kind for f in proof.faults] == ["different"]
    assert "“*” comes last, and disables it" in proof.faults[0].sentence


def test_the_old_mapping() -> None:
    old = {
        "default": {"enable": False},
        "*weight_quantizer": {"num_bits": (4, 3), "axis": None},
        "*input_quantizer": {"num_bits": (4, 3), "axis": None},
        "*lm_head*": {"enable": False},
        "nn.Embedding": {"*": {"enable": False}},
        f"{DOWN0}.*": {"enable": False},
    }
    assert prove(_read(PLAIN, {"quant_cfg": old, "algorithm": "max"})).holds
    first = {"*weight_quantizer": old["*weight_quantizer"], "default": {"enable": False}}
    assert {o.treatment for o in _outcomes(PLAIN, {"quant_cfg": first}).values()} == {"bf16"}


def test_half_of_a_layer() -> None:
    data = _with({"quantizer_name": f"{DOWN1}.input_quantizer", "enable": False})
    assert _outcomes(PLAIN, data)[DOWN1].note == "weights alone are quantized (tensor)"
    data = _with({"quantizer_name": f"{DOWN1}.weight_quantizer", "enable": False})
    assert _outcomes(PLAIN, data)[DOWN1].note == "inputs alone are quantized (tensor)"
    data = _with({"quantizer_name": f"{DOWN1}.weight_quantizer", "cfg": {**FP8, "axis": 0}})
    assert _outcomes(PLAIN, data)[DOWN1].note == "weights: channel; inputs: tensor"
    data = _with({"quantizer_name": f"{DOWN1}.input_quantizer", "cfg": {**FP8, "type": "dynamic"}})
    assert _outcomes(PLAIN, data)[DOWN1].treatment == "fp8_tensor_dynamic"


def test_experts_are_one_stack() -> None:
    model = planned(mixtral(), "fp8_tensor")
    assert prove(_read(model, _with())).holds
    one = {"quantizer_name": f"{UP0}_weight_quantizers.3", "enable": False}
    assert _outcomes(model, _with(one))[UP0] == Outcome(
        "other", note="its experts differ: off and tensor"
    )
    all_of_them = {"quantizer_name": f"{UP0}_*_quantizer*", "enable": False}
    assert _outcomes(model, _with(all_of_them))[UP0].treatment == "bf16"
    assert _outcomes(model, _with())["model.layers.0.mlp.gate"].treatment == "bf16"


def test_old_linears_have_quantizers_too() -> None:
    assert prove(_read(GPT2, modelopt.write(GPT2).config)).holds


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"quantizer_name": "*"}, "says neither"),
        ({"quantizer_name": "*", "cfg": {}}, "`cfg` is empty"),
        ({"quantizer_name": "*", "cfg": {"num_bit": 8}}, "no num_bit"),
        ({"quantizer_name": "*", "enabled": False}, "there is no enabled"),
        ({"quantizer_name": "*", "enable": False, "parent_class": "Linear"}, "parent_class Linear"),
        ({"$import": "kv_fp8"}, "imports kv_fp8"),
        ("*", "is no entry"),
    ],
)
def test_what_modelopt_refuses_is_refused(entry: Any, words: str) -> None:
    with pytest.raises(CannotRead, match=words):
        _read(MIXTRAL, {"quant_cfg": [entry]})
    with pytest.raises(CannotRead, match="no list"):
        _read(MIXTRAL, {"quant_cfg": "fp8"})
