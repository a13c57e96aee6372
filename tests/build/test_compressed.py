"""Checkpoints of compressed-tensors: codes and scales bit for bit, and what transformers makes of
them, which quantizes inputs as well, but not those of stacked experts.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from fp8scope.artefacts.plan import Plan
from fp8scope.build.compressed import write_compressed
from fp8scope.build.scales import static_scales
from fp8scope.core import formats
from fp8scope.core.choices import Part
from fp8scope.core.formats import E4M3
from fp8scope.core.schemes import CANDIDATES
from fp8scope.errors import BadInput, CannotWrite, Missing, Stale
from fp8scope.export.consumer import CannotExpress
from fp8scope.observe.applied import Applied
from fp8scope.runtime.fake_quant import by_torch
from tests import models
from tests.build.precisions import all_fp8, fake_quantized, mixed, prepared, sqnr_db
from tests.observe.quantized_models import Prepared
from tests.observe.quantized_models import prepared as prepared_alone

NOTHING: dict[str, set[str]] = {"missing_keys": set(), "unexpected_keys": set()}
IDS = models.token_ids(2, 12, seed=5)
MIX = {"0.mlp.down": "fp8_token", "1.self_attn.o": "bf16", "1.mlp.gate": "fp8_token"}
# Widths that no block of 128 divides, and those that one does.
UNEVEN: dict[str, Any] = {"hidden_size": 160, "intermediate_size": 300}
EVEN: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


def _build(what: Prepared, plan: Plan, folder: Path, **options: Any) -> dict[str, Any]:
    """The checkpoint as `build` leaves it; its `quantization_config`."""
    scales = static_scales(what.model, plan)
    config = write_compressed(what.model, plan, scales, folder, **options)
    what.model.config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def _loaded(folder: Path, **options: Any) -> tuple[Any, dict[str, set[str]]]:
    """The model as transformers loads it, in float32, and what it says was missing or too much."""
    loader: Any = AutoModelForCausalLM
    model, info = loader.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    return model, {key: set(info[key]) for key in ("missing_keys", "unexpected_keys")}


def _amax(weight: Tensor) -> float:
    return float(weight.detach().abs().max())


def _in_float32(what: Prepared) -> Prepared:
    """The same weights and scales, computed in float32 (rotary frequencies, which are no
    parameters, never were in another dtype).
    """
    model: Any = AutoModelForCausalLM.from_config(what.model.config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict(what.model.state_dict())
    return Prepared(model.eval(), what.profile)


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_transformers_computes_what_the_plan_says(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Per tensor, per token and BF16, with an FP8 KV cache: to the last bit, in float32."""
    what = prepared(name, dtype)
    plan = mixed(all_fp8(name, dtype=dtype), MIX)
    assert {group.precision for group in plan.groups} == {"fp8_tensor", "fp8_token", "bf16"}
    _build(what, plan, tmp_path)
    model, told = _loaded(tmp_path)
    assert told == NOTHING
    got, true = models.logits(model, IDS), models.logits(_in_float32(what).model, IDS)
    assert got.isfinite().all()
    with torch.no_grad():
        got = model(input_ids=IDS).logits  # with a cache
    want = fake_quantized(_in_float32(what), plan, IDS)
    assert sqnr_db(want, true) < 25, "quantizing these small models is seen"
    assert sqnr_db(got, want) > 100


@pytest.mark.parametrize("precision", ["fp8_tensor", "fp8_token"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_as_transformers_loads_them(name: str, precision: str, tmp_path: Path) -> None:
    """Their weights are exact. Transformers has no place for their input scales, which it names
    as unexpected: engines read them.
    """
    what = prepared(name)
    plan = mixed(all_fp8(name), {"experts": precision, "1.mlp.gate_up": "bf16"})
    _build(what, plan, tmp_path)
    model, told = _loaded(tmp_path)
    input_scales = {n for n in _tensors(tmp_path) if ".experts." in n and "input_scale" in n}
    renamed = {n.replace(".block_sparse_moe.", ".mlp.") for n in input_scales}
    assert told == NOTHING | {"unexpected_keys": renamed}
    blocks = 2 if name == "mixtral" else 1
    experts = 4 if name == "mixtral" else 6
    assert len(input_scales) == (blocks * experts * 3 if precision == "fp8_tensor" else 0)
    reference = _in_float32(what)
    terms = [
        term._replace(part=Part.WEIGHT) if "experts" in term.group else term
        for term in plan.terms()
    ]
    applied = Applied(reference.model, reference.gemms, reference.caches, cached=True)
    with applied.terms(terms):
        want = applied.logits(IDS)
    with torch.no_grad():
        got = model(input_ids=IDS).logits
    assert sqnr_db(got, want) > 100


def test_experts_share_a_scale_as_engines_want(tmp_path: Path) -> None:
    """w1 and w3 of an expert are one GEMM; w2 is another, and every expert has its own."""
    what = prepared("mixtral")
    _build(what, all_fp8("mixtral"), tmp_path)
    tensors = _tensors(tmp_path)
    stack = what.model.model.layers[0].mlp.experts
    first = set()
    for expert in range(4):
        name = f"model.layers.0.block_sparse_moe.experts.{expert}"
        w1, w2, w3 = (tensors[f"{name}.{part}.weight_scale"] for part in ("w1", "w2", "w3"))
        assert float(w1) == float(E4M3.scale(_amax(stack.gate_up_proj[expert])))
        assert float(w2) == float(E4M3.scale(_amax(stack.down_proj[expert])))
        assert torch.equal(w1, w3)
        assert tensors[f"{name}.w1.weight"].dtype == torch.float8_e4m3fn
        first.add(float(w1))
    assert len(first) == 4


def test_members_of_a_fused_group_share_a_scale(tmp_path: Path) -> None:
    what = prepared("llama")
    _build(what, all_fp8("llama"), tmp_path)
    tensors = _tensors(tmp_path)
    attention = what.model.model.layers[0].self_attn
    parts = ("q_proj", "k_proj", "v_proj")
    amax = max(_amax(getattr(attention, part).weight) for part in parts)
    own = {_amax(getattr(attention, part).weight) for part in parts}
    assert len(own) > 1
    for kind in ("weight_scale", "input_scale"):
        scales = {float(tensors[f"model.layers.0.self_attn.{part}.{kind}"]) for part in parts}
        assert len(scales) == 1, kind
    assert float(tensors["model.layers.0.self_attn.q_proj.weight_scale"]) == E4M3.scale(amax)


def test_names_shapes_and_dtypes(tmp_path: Path) -> None:
    """What vLLM and transformers look for: [1] per tensor, [out, 1] per channel, in float32."""
    _build(prepared("llama"), mixed(all_fp8("llama"), MIX), tmp_path)
    tensors = _tensors(tmp_path)
    found = {n: (str(t.dtype)[6:], tuple(t.shape)) for n, t in tensors.items() if ".0." in n}
    block = "model.layers.0"
    down = {n.rpartition(".")[2]: what for n, what in found.items() if "down_proj" in n}
    assert down == {
        "weight": ("float8_e4m3fn", (32, 48)),
        "weight_scale": ("float32", (32, 1)),
        "bias": ("bfloat16", (32,)),
    }
    q = {n.rpartition(".")[2]: what for n, what in found.items() if "q_proj" in n}
    assert q == {
        "weight": ("float8_e4m3fn", (48, 32)),
        "weight_scale": ("float32", (1,)),
        "input_scale": ("float32", (1,)),
        "bias": ("bfloat16", (48,)),
    }
    assert found[f"{block}.self_attn.k_scale"] == found[f"{block}.self_attn.v_scale"]
    assert found[f"{block}.self_attn.k_scale"] == ("float32", (1,))
    assert found[f"{block}.input_layernorm.weight"] == ("bfloat16", (32,))
    ours = {n for n in tensors if "_scale" in n}
    assert {n for n in tensors if n not in ours} == set(prepared("llama").model.state_dict())
    assert not any(".layers.1.self_attn.o_proj" in n or "lm_head" in n for n in ours)


def _assert_codes(folder: Path, what: Prepared, plan: Plan) -> int:
    """Codes and scales of every FP8 weight are those of `core.formats` and `runtime.fake_quant`.

    How many there were.
    """
    tensors = _tensors(folder)
    precision = {f"{n}.weight": g.precision for g in plan.groups for n in g.members}
    checked = 0
    for name, weight in what.model.state_dict().items():
        if tensors[name].dtype != torch.float8_e4m3fn:
            assert torch.equal(tensors[name], weight), name
            continue
        scale = tensors[f"{name}_scale"]
        spread = scale
        if precision[name] == "fp8_block":
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            spread = spread[: weight.shape[0], : weight.shape[1]]
        values = (tensors[name].float() * spread).numpy()
        own = formats.fake_quantize(weight.float().numpy(), spread.numpy(), E4M3)
        assert np.array_equal(values, own.values), name
        if precision[name] != "fp8_tensor":
            scheme = CANDIDATES[precision[name]].weight
            assert scheme is not None
            assert np.array_equal(values, by_torch(weight, scheme).numpy()), name
        checked += 1
    return checked


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("precision", ["fp8_tensor", "fp8_token", "fp8_block"])
def test_codes_are_ours_bit_for_bit(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    what = prepared("llama", dtype, **UNEVEN)
    plan = mixed(all_fp8("llama", dtype=dtype, **UNEVEN), {"layers": precision})
    _build(what, plan, tmp_path)
    assert _assert_codes(tmp_path, what, plan) == 14


def test_blocks_at_the_edge_have_scales_of_their_own(tmp_path: Path) -> None:
    what = prepared("llama", **UNEVEN)
    plan = mixed(all_fp8("llama", **UNEVEN), {"layers": "fp8_block"})
    _build(what, plan, tmp_path)
    tensors = _tensors(tmp_path)
    weight = what.model.model.layers[0].mlp.down_proj.weight
    scale = tensors["model.layers.0.mlp.down_proj.weight_scale"]
    assert (scale.dtype, tuple(scale.shape)) == (torch.float32, (2, 3))
    assert float(scale[1, 2]) == E4M3.scale(_amax(weight[128:, 256:]))
    assert not any("input_scale" in name for name in tensors)


def test_blocks_in_transformers(tmp_path: Path) -> None:
    what = prepared("llama", **EVEN)
    plan = mixed(all_fp8("llama", **EVEN), {"layers": "fp8_block"})
    _build(what, plan, tmp_path)
    model, told = _loaded(tmp_path)
    assert told == NOTHING
    with torch.no_grad():
        got = model(input_ids=IDS).logits
    assert sqnr_db(got, fake_quantized(_in_float32(what), plan, IDS)) > 100


def test_experts_in_blocks_are_written_for_engines(tmp_path: Path) -> None:
    """Transformers cannot load those (`check --for transformers` says so); vLLM can."""
    sizes = {"hidden_size": 160, "intermediate_size": 304}
    what = prepared("mixtral", **sizes)
    plan = mixed(all_fp8("mixtral", **sizes), {"experts": "fp8_block"})
    _build(what, plan, tmp_path)
    tensors = _tensors(tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.2"
    assert tuple(tensors[f"{name}.w1.weight_scale"].shape) == (3, 2)
    assert tuple(tensors[f"{name}.w2.weight_scale"].shape) == (2, 3)
    own = what.model.model.layers[1].mlp.experts.gate_up_proj[2, 304:]
    scheme = CANDIDATES["fp8_block"].weight
    assert scheme is not None
    spread = tensors[f"{name}.w3.weight_scale"].repeat_interleave(128, 0)[:304]
    spread = spread.repeat_interleave(128, 1)[:, :160]
    assert torch.equal(tensors[f"{name}.w3.weight"].float() * spread, by_torch(own, scheme))


def test_a_channel_of_zeros_has_a_scale(tmp_path: Path) -> None:
    what = Prepared(copy.deepcopy(prepared("llama").model), prepared("llama").profile)
    with torch.no_grad():
        what.model.model.layers[0].mlp.down_proj.weight[3] = 0
    _build(what, mixed(all_fp8("llama"), MIX), tmp_path)
    tensors = _tensors(tmp_path)
    name = "model.layers.0.mlp.down_proj.weight"
    assert float(tensors[f"{name}_scale"].min()) > 0
    assert not tensors[name][3].float().any()
    assert tensors[name][2].float().abs().max() == 448


def test_scales_of_the_cache_are_the_plans(tmp_path: Path) -> None:
    what, plan = prepared("llama"), all_fp8("llama")
    config = _build(what, plan, tmp_path)
    tensors = _tensors(tmp_path)
    for cache in plan.kv_cache:
        assert float(tensors[f"{cache.attention}.k_scale"]) == np.float32(cache.k_scale)
        assert float(tensors[f"{cache.attention}.v_scale"]) == np.float32(cache.v_scale)
    assert config["kv_cache_scheme"]["num_bits"] == 8
    (tmp_path / "bf16").mkdir()
    config = _build(what, mixed(plan, {}, cache="bf16"), tmp_path / "bf16")
    assert config["kv_cache_scheme"] is None
    assert not any("k_scale" in name for name in _tensors(tmp_path / "bf16"))


def test_a_latent_cache_has_its_scale_twice(tmp_path: Path) -> None:
    """The library makes room for both, and the values are the latent."""
    what = prepared("deepseek_v2")
    plan = all_fp8("deepseek_v2")
    _build(what, plan, tmp_path)
    tensors = _tensors(tmp_path)
    assert plan.kv_cache[0].v_scale is None
    for kind in ("k_scale", "v_scale"):
        found = float(tensors[f"model.layers.0.self_attn.{kind}"])
        assert found == np.float32(plan.kv_cache[0].k_scale)
    _, told = _loaded(tmp_path)
    assert not told["missing_keys"]
    assert all(".experts." in name for name in told["unexpected_keys"])


def test_the_config_is_the_librarys_own(tmp_path: Path) -> None:
    config = QuantizationConfig.model_validate(
        _build(prepared("llama"), mixed(all_fp8("llama"), MIX), tmp_path)
    )
    tensors = _tensors(tmp_path)
    quantized = {n.removesuffix(".weight") for n in tensors if tensors[n].itemsize == 1}
    targets = [t for group in config.config_groups.values() for t in group.targets]
    assert config.format == "float-quantized"
    assert config.quantization_status == "compressed"
    assert quantized <= set(targets)
    assert {n.removesuffix(".weight") for n in tensors} & set(config.ignore) == {
        "lm_head",
        "model.layers.1.self_attn.o_proj",
    }


def test_shards_load_as_one_file_does(tmp_path: Path) -> None:
    what, plan = prepared("llama"), mixed(all_fp8("llama"), MIX)
    calls: list[tuple[int, int]] = []
    _build(what, plan, tmp_path, shard_bytes=4000, progress=lambda *done: calls.append(done))
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 5
    model, told = _loaded(tmp_path)
    assert told == NOTHING
    with torch.no_grad():
        got = model(input_ids=IDS).logits
    assert sqnr_db(got, fake_quantized(_in_float32(what), plan, IDS)) > 100
    assert calls == [(done, 13) for done in range(14)]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    what = prepared("mixtral")
    before = {name: tensor.clone() for name, tensor in what.model.state_dict().items()}
    _build(what, all_fp8("mixtral"), tmp_path)
    after = what.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after.keys() == before.keys()


def _refused(what: Any, plan: Plan, folder: Path, error: type[Exception], match: str) -> None:
    """Before anything is written."""
    with pytest.raises(error, match=match):
        _build(what, plan, folder)
    assert list(folder.iterdir()) == []


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors", None)
    remedy = r"pip install 'fp8scope\[compressed-tensors\]'"
    _refused(prepared("llama"), all_fp8("llama"), tmp_path, Missing, remedy)


def test_caches_that_differ_are_refused(tmp_path: Path) -> None:
    plan = all_fp8("llama")
    first = plan.kv_cache[0].model_copy(update={"precision": "bf16"})
    plan = plan.model_copy(update={"kv_cache": (first, *plan.kv_cache[1:])})
    _refused(prepared("llama"), plan, tmp_path, CannotExpress, "one KV cache for all layers")


def test_a_cache_without_a_scale_is_refused(tmp_path: Path) -> None:
    plan = all_fp8("llama")
    first = plan.kv_cache[0].model_copy(update={"k_scale": None})
    plan = plan.model_copy(update={"kv_cache": (first, *plan.kv_cache[1:])})
    match = "no scale of the KV cache .*layers.0.* → make it anew"
    _refused(prepared("llama"), plan, tmp_path, BadInput, match)


def test_nothing_in_fp8_is_refused(tmp_path: Path) -> None:
    plan = mixed(all_fp8("llama"), {"": "bf16"}, cache="bf16")
    _refused(prepared("llama"), plan, tmp_path, CannotExpress, "no layer of small is in FP8")


def test_another_model_is_refused(tmp_path: Path) -> None:
    other = prepared_alone("llama", torch.bfloat16, intermediate_size=64)
    match = r"gate_proj\.weight \[48, 32\] in FP8, .* \[64, 32\].* → plan this very model"
    _refused(other, all_fp8("llama"), tmp_path, Stale, match)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    what, plan = prepared("llama"), all_fp8("llama")
    scales = static_scales(what.model, plan)
    with pytest.raises(CannotWrite, match="nowhere"):
        write_compressed(what.model, plan, scales, tmp_path / "nowhere")
