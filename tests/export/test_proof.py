"""Faults of lists, on what vLLM and SGLang really make of small ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.checking import check
from fp8scope.export.consumer import Consumer
from fp8scope.export.consumers import sglang, vllm
from fp8scope.export.faults import Fault
from fp8scope.export.proof import Proof, prove
from tests.export import plans, shapes
from tests.export.engine_shapes import llama, read, wanting

AT = "model.layers.1"
DOWN, QKV, GATE_UP = f"{AT}.mlp.down_proj", f"{AT}.self_attn.qkv_proj", f"{AT}.mlp.gate_up_proj"


def modelopt(*entries: str) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": list(entries)}


def compressed(*entries: str, targets: Mapping[str, Treatment] | None = None) -> dict[str, Any]:
    """`targets`: what each asks for, each in a group of its own; by default all linears."""
    groups = {
        f"group_{n}": {"targets": [target], **SCHEMES[treatment]}
        for n, (target, treatment) in enumerate((targets or {"Linear": "fp8_token"}).items())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": groups,
        "ignore": ["lm_head", *entries],
    }


def proven(consumer: Consumer, data: dict[str, Any], model: Model) -> Proof:
    form = "hf-quant-config" if data["quant_method"] == "modelopt" else data["quant_method"]
    return prove(read(consumer, form, data, model))


def only(proof: Proof) -> Fault:
    (fault,) = proof.faults
    assert fault.layers == tuple(row.layer.name for row in proof.differences)
    assert not proof.holds
    return fault


def parts_of_a_block() -> list[str]:
    attention = [f"self_attn.{n}_proj" for n in "qkvo"]
    return [*attention, *(f"mlp.{n}_proj" for n in ("gate", "up", "down"))]


def test_a_list_that_says_what_is_wanted_has_no_fault() -> None:
    proof = proven(vllm.CONSUMER, modelopt("lm_head", DOWN), wanting(llama(), "fp8_tensor", [DOWN]))
    assert (proof.faults, proof.differences, proof.holds) == ((), (), True)
    runs = Counter(row.outcome.treatment for row in proof.rows)
    assert runs == {"fp8_tensor": 4 * 12 - 1, "bf16": 2}


def test_nothing_is_matched_and_nothing_meant() -> None:
    data = modelopt("lm_head", "model.layers.1.mlp.dawn_proj", "vision_tower.blocks.0")
    proof = proven(vllm.CONSUMER, data, wanting(llama(2), "fp8_tensor"))
    assert [(fault.kind, fault.sentence) for fault in proof.faults] == [
        ("nothing", f"ignore “{AT}.mlp.dawn_proj” matches nothing; there is {DOWN}"),
        ("nothing", "ignore “vision_tower.blocks.0” matches nothing"),
    ]
    assert (proof.differences, proof.holds) == ((), False)


def test_nothing_is_matched_by_entries_that_mean_a_layer() -> None:
    data = compressed("*.1.mlp.down_proj", "layers.1.mlp.down_proj*")
    fault = only(proven(vllm.CONSUMER, data, wanting(llama(2), "fp8_token", [DOWN])))
    assert (fault.kind, [pattern.text for pattern in fault.patterns]) == (
        "nothing",
        ["*.1.mlp.down_proj", "layers.1.mlp.down_proj*"],
    )
    assert fault.sentence == (
        "ignore “*.1.mlp.down_proj”, “layers.1.mlp.down_proj*” match nothing, "
        f"so {DOWN} is not in BF16"
    )


def test_ten_is_no_part_of_one() -> None:
    model = wanting(llama(11), "fp8_tensor", [f"{AT}.{part}" for part in parts_of_a_block()])
    fault = only(proven(vllm.CONSUMER, modelopt("lm_head", AT), model))
    assert (fault.kind, len(fault.layers), fault.sentence) == (
        "too much",
        4,
        f"ignore “{AT}” also matches model.layers.10.self_attn.qkv_proj, "
        "model.layers.10.self_attn.o_proj, model.layers.10.mlp.gate_up_proj and 1 more, "
        "which should be FP8 per tensor, static",
    )
    assert proven(sglang.CONSUMER, modelopt("lm_head", AT), model).holds


def test_a_meant_entry_that_should_not_be_there() -> None:
    fault = only(proven(vllm.CONSUMER, modelopt("lm_head", DOWN), wanting(llama(2), "fp8_tensor")))
    says = f"ignore “{DOWN}” matches {DOWN}, which should be FP8 per tensor, static"
    assert (fault.kind, fault.sentence) == ("too much", says)


def test_parts_that_should_differ_are_split() -> None:
    model = wanting(llama(2), "fp8_tensor", [".self_attn.q_proj"])
    fault = only(proven(vllm.CONSUMER, modelopt("lm_head"), model))
    assert (fault.kind, fault.sentence) == (
        "split",
        "model.layers.0.self_attn.qkv_proj, model.layers.1.self_attn.qkv_proj are each run as one, "
        "but their parts should be BF16 and FP8 per tensor, static",
    )


def test_a_list_that_names_some_parts_splits() -> None:
    model = wanting(llama(2), "fp8_tensor")
    data = modelopt("lm_head", f"{AT}.self_attn.k_proj", f"{AT}.self_attn.q_proj")
    for consumer in (vllm.CONSUMER, sglang.CONSUMER):
        fault = only(proven(consumer, data, model))
        assert (fault.kind, fault.sentence) == (
            "split",
            f"{QKV} is refused: it runs q_proj, k_proj, v_proj as one, "
            "and only q_proj, k_proj is named",
        )


def test_entries_that_ask_for_different_things_collide() -> None:
    data = compressed(
        targets={GATE_UP: "fp8_token", DOWN: "fp8_token", f"re:{DOWN}$": "fp8_tensor"}
    )
    model = llama(2).with_wanted(
        lambda m: (
            "fp8_tensor" if m.name == DOWN else "fp8_token" if f"{AT}.mlp" in m.name else "bf16"
        )
    )
    fault = only(proven(vllm.CONSUMER, data, model))
    assert (fault.kind, fault.sentence) == (
        "collision",
        f"config_groups.group_1.targets “{DOWN}” and config_groups.group_2.targets “re:{DOWN}$” "
        f"both match {DOWN} and ask for FP8 per token and FP8 per tensor, static: "
        "it will run in FP8 per token",
    )


def test_what_it_raises_is_a_refusal() -> None:
    proof = proven(sglang.CONSUMER, modelopt("model.layers[0"), wanting(llama(2), "bf16"))
    refused, dead = proof.faults
    assert (refused.kind, len(refused.layers)) == ("refused", 2 * 4 + 1)
    assert "an entry is no regular expression" in refused.sentence
    assert dead.sentence == "ignore “model.layers[0” matches nothing"


def test_what_no_list_names_is_different() -> None:
    model = wanting(llama(2), "fp8_tensor", [DOWN])
    fault = only(proven(vllm.CONSUMER, modelopt("lm_head"), model))
    assert (fault.kind, fault.sentence) == (
        "different",
        f"{DOWN} will run in FP8 per tensor, static and should be BF16: no entry names it",
    )


def test_faults_as_data() -> None:
    fault = only(proven(vllm.CONSUMER, modelopt("lm_head", DOWN), wanting(llama(2), "fp8_tensor")))
    assert fault.to_json() == {
        "kind": "too much",
        "sentence": fault.sentence,
        "layers": [DOWN],
        "patterns": [{"where": "ignore", "text": DOWN}],
    }


_MODELS = {"llama": shapes.llama(11), "mixtral": shapes.mixtral(), "phi3": shapes.phi3()}
_PARTS = [*parts_of_a_block(), "self_attn.qkv_proj", "self_attn", "mlp", "mlp.gate", "mlp.experts"]
_PARTS += ["block_sparse_moe.experts", "block_sparse_moe.experts.0.w1", "mlp.gate_up_proj"]


@st.composite
def entries(draw: st.DrawFn) -> str:
    part, block = draw(st.sampled_from(_PARTS)), draw(st.sampled_from(["0", "1", "10", "*"]))
    name = draw(st.sampled_from(["model.layers", "layers", "model.language_model.layers"]))
    text = draw(st.sampled_from([f"{name}.{block}.{part}", f"{name}.{block}", part, f"*.{part}"]))
    end = draw(st.sampled_from(["", "", "*", ".*", "$"]))
    return draw(st.sampled_from(["", "", "re:.*", "re:"])) + text + end


@st.composite
def planned(draw: st.DrawFn) -> Model:
    """A model, some of whose groups stay in BF16."""
    model = _MODELS[draw(st.sampled_from(sorted(_MODELS)))]
    groups = sorted({module.group for module in model.modules})
    return shapes.planned(model, "fp8_tensor", draw(st.lists(st.sampled_from(groups), max_size=4)))


_CONSUMERS = st.sampled_from([vllm.CONSUMER, sglang.CONSUMER])
_LISTS = st.lists(entries(), max_size=6)


@given(model=planned(), texts=_LISTS, consumer=_CONSUMERS, is_modelopt=st.booleans())
def test_each_difference_has_one_fault(
    model: Model, texts: list[str], consumer: Consumer, is_modelopt: bool
) -> None:
    data = modelopt(*texts) if is_modelopt else compressed(*texts, targets={"Linear": "fp8_tensor"})
    proof = proven(consumer, data, model)
    assert proof.holds == (not proof.faults)
    blamed = Counter(layer for fault in proof.faults for layer in fault.layers)
    assert blamed == dict.fromkeys((row.layer.name for row in proof.differences), 1)
    for fault in proof.faults:
        assert fault.sentence.count("“") <= 2 * 3
        assert {pattern.text for pattern in fault.patterns} <= {*texts, "Linear", "lm_head"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=planned(), texts=_LISTS, consumer=_CONSUMERS, is_modelopt=st.booleans())
def test_what_is_offered_proves_clean(
    tmp_path: Path, model: Model, texts: list[str], consumer: Consumer, is_modelopt: bool
) -> None:
    data = modelopt(*texts) if is_modelopt else compressed(*texts, targets={"Linear": "fp8_tensor"})
    plan = str(plans.write(plans.plan_of(model), tmp_path / "plan.json"))
    (tmp_path / "config.json").write_text(json.dumps(data))
    checked = check(tmp_path / "config.json", consumer.name, model=plan)
    if checked.proof.holds:
        assert (checked.corrected, checked.why_not) == (None, "")
        return
    assert (checked.corrected is None) == bool(checked.why_not)
    if checked.corrected is not None:
        (tmp_path / "mended.json").write_text(checked.corrected.forms["json"].text)
        assert check(tmp_path / "mended.json", consumer.name, model=plan).proof.holds
