"""Linears of small models as they lie in the files, for what serving engines make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fp8scope.core.modules import Kind, Model, Module, Treatment
from fp8scope.export.consumer import Config, Consumer, Outcome, Reading


def linear(name: str, kind: Kind = "linear") -> Module:
    return Module(name, name, name, kind, 256, 256)


def llama(
    blocks: int = 12, prefix: str = "model.", architecture: str = "LlamaForCausalLM"
) -> Model:
    attention = [f"self_attn.{n}_proj" for n in "qkvo"]
    mlp = [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    modules = [
        linear(f"{prefix}layers.{block}.{part}")
        for block in range(blocks)
        for part in (*attention, *mlp)
    ]
    return Model("llama", architecture, "llama", (*modules, linear("lm_head", "lm_head")))


def phi3() -> Model:
    parts = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    modules = [linear(f"model.layers.{block}.{part}") for block in range(2) for part in parts]
    return Model("phi3", "Phi3ForCausalLM", "phi3", (*modules, linear("lm_head", "lm_head")))


def mixtral() -> Model:
    modules = []
    for block in range(2):
        at = f"model.layers.{block}"
        modules += [linear(f"{at}.self_attn.{n}_proj") for n in "qkvo"]
        modules.append(linear(f"{at}.block_sparse_moe.gate", "router"))
        modules += [
            linear(f"{at}.block_sparse_moe.experts.{expert}.{shard}", "expert")
            for expert in range(3)
            for shard in ("w1", "w2", "w3")
        ]
    head = linear("lm_head", "lm_head")
    return Model("mixtral", "MixtralForCausalLM", "mixtral", (*modules, head))


def deepseek() -> Model:
    """Attention with compressed queries: SGLang builds their projections as one."""
    parts = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    modules = [linear(f"model.layers.{block}.self_attn.{p}") for block in (0, 1) for p in parts]
    head = linear("lm_head", "lm_head")
    return Model("deepseek", "DeepseekV3ForCausalLM", "deepseek_v3", (*modules, head))


def wanting(model: Model, treatment: Treatment, kept: Iterable[str] = ()) -> Model:
    """Every linear in the treatment, but for heads, routers and what ends as `kept` says."""
    ends = tuple(kept)
    return model.with_wanted(
        lambda m: (
            "bf16"
            if m.kind in {"lm_head", "router"} or (ends and f".{m.name}".endswith(ends))
            else treatment
        )
    )


def read(
    consumer: Consumer, form: str, data: Any, model: Model, version: str | None = None
) -> Reading:
    config = Config(form, data, "config.json")
    return consumer.reads[form](config, model, version or consumer.versions[-1])


def outcomes(reading: Reading) -> Mapping[str, Outcome]:
    return {layer.name: reading.outcome(layer) for layer in reading.layers}


def treatments(reading: Reading) -> Mapping[str, Treatment | None]:
    return {name: outcome.treatment for name, outcome in outcomes(reading).items()}
