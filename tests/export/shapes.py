"""Linears of small models, as a plan of them has them: two blocks, in the names of their files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import Config, Document, Form

GOLDEN = Path(__file__).parent / "golden"
DOWN0 = "model.layers.0.mlp.down_proj"


def llama(layers: int = 2, *, hidden: int = 256, wide: int = 512) -> Model:
    modules = []
    for block in range(layers):
        at, mlp = f"model.layers.{block}.self_attn", f"model.layers.{block}.mlp"
        modules += [plain(f"{at}.{n}_proj", f"{at}.qkv_proj", hidden, hidden) for n in "qkv"]
        modules.append(plain(f"{at}.o_proj", f"{at}.o_proj", hidden, hidden))
        modules += [
            plain(f"{mlp}.{n}_proj", f"{mlp}.gate_up", wide, hidden) for n in ("gate", "up")
        ]
        modules.append(plain(f"{mlp}.down_proj", f"{mlp}.down_proj", hidden, wide))
    return Model("llama", "LlamaForCausalLM", "llama", (*modules, head(hidden)))


def phi3(*, hidden: int = 256, wide: int = 512) -> Model:
    modules = []
    for block in range(2):
        at, mlp = f"model.layers.{block}.self_attn", f"model.layers.{block}.mlp"
        for name, rows, columns in (
            (f"{at}.qkv_proj", 3 * hidden, hidden),
            (f"{at}.o_proj", hidden, hidden),
            (f"{mlp}.gate_up_proj", 2 * wide, hidden),
            (f"{mlp}.down_proj", hidden, wide),
        ):
            modules.append(plain(name, name, rows, columns))
    return Model("phi3", "Phi3ForCausalLM", "phi3", (*modules, head(hidden)))


def mixtral(*, hidden: int = 256, wide: int = 512, experts: int = 4) -> Model:
    """The files' names of MLPs are not those of the modules; experts lie apart there."""
    modules = []
    for block in range(2):
        at = f"model.layers.{block}.self_attn"
        files, here = f"model.layers.{block}.block_sparse_moe", f"model.layers.{block}.mlp"
        modules += [plain(f"{at}.{n}_proj", f"{at}.qkv_proj", hidden, hidden) for n in "qkv"]
        modules.append(plain(f"{at}.o_proj", f"{at}.o_proj", hidden, hidden))
        modules.append(
            Module(f"{files}.gate", f"{here}.gate", f"{here}.gate", "router", experts, hidden)
        )
        for expert in range(experts):
            for shard, stack, rows, columns in (
                ("w1", "gate_up_proj", wide, hidden),
                ("w3", "gate_up_proj", wide, hidden),
                ("w2", "down_proj", hidden, wide),
            ):
                name = f"{files}.experts.{expert}.{shard}"
                group = f"{here}.experts"
                modules.append(Module(name, f"{group}.{stack}", group, "expert", rows, columns))
    return Model("mixtral", "MixtralForCausalLM", "mixtral", (*modules, head(hidden)))


def gpt2(*, hidden: int = 256) -> Model:
    name = "transformer.h.0.mlp.c_fc"
    file = Module("h.0.mlp.c_fc", name, name, "linear", 4 * hidden, hidden)
    return Model("gpt2", "GPT2LMHeadModel", "gpt2", (file, head(hidden)))


def plain(name: str, group: str, rows: int, columns: int) -> Module:
    return Module(name, name, group, "linear", rows, columns)


def head(hidden: int) -> Module:
    return Module("lm_head", "lm_head", "lm_head", "lm_head", 96 * 16, hidden)


def planned(model: Model, treatment: Treatment, bf16: Iterable[str] = ()) -> Model:
    """All in `treatment` but routers, lm_head and what `bf16` names, by runtime or group."""
    kept = set(bf16)

    def choose(module: Module) -> Treatment:
        if module.kind in {"router", "lm_head"} or {module.runtime, module.group} & kept:
            return "bf16"
        return treatment

    return model.with_wanted(choose)


def config(form: str, document: Document) -> Config:
    return Config(form, document.config, "made here")


def check_golden(name: str, form: Form) -> None:
    """The text against the committed file; UPDATE_GOLDEN=1 writes it."""
    suffix = f"{form.suffix}.txt" if form.suffix == ".py" else form.suffix  # no code of ours
    path = GOLDEN / f"{name}{suffix}"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(form.text)
    assert form.text == path.read_text(), f"{path.name} differs: look, then UPDATE_GOLDEN=1"


# what transformers needs beside, to make a network of the shapes above
_NETWORK: dict[str, dict[str, int]] = {
    "llama": {},
    "mixtral": {"num_local_experts": 4},
    "phi3": {"pad_token_id": 0},
}


def network(family: str, device: str = "meta") -> Any:
    """A random model of transformers' own, in BF16, whose linears are those of `family`'s shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    config = AutoConfig.for_model(
        family,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=96 * 16,
        **_NETWORK[family],
    )
    with torch.device(device):
        return auto.from_config(config, dtype=torch.bfloat16)
