"""Small healthy FP8 checkpoints, as ModelOpt and compressed-tensors lay them out, to be broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

Layout = Literal["modelopt", "compressed-tensors"]
HIDDEN, WIDE, VOCABULARY, LAYERS = 64, 128, 96, 2
KEPT = "model.layers.1.mlp.down_proj"
DOWN0 = "model.layers.0.mlp.down_proj"
Q0 = "model.layers.0.self_attn.q_proj"
INDEX = "model.safetensors.index.json"
_F8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}


@dataclass
class Checkpoint:
    """What will be written: change it, then `write`. `tensors` by name."""

    layout: Layout
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    metadata: dict[str, Any] | None
    files: dict[str, str] = field(default_factory=lambda: {"tokenizer.json": "{}"})

    @property
    def quantization(self) -> dict[str, Any]:
        """config.json's."""
        found: dict[str, Any] = self.config["quantization_config"]
        return found

    def ignore(self, entries: Iterable[str]) -> None:
        """In both files."""
        self.quantization["ignore"] = list(entries)
        if self.metadata is not None:
            self.metadata["quantization"]["exclude_modules"] = list(entries)

    def linear(self, name: str, *, weight: Tensor | None = None, fp8: bool = True) -> None:
        """Another linear, or the same anew, static per tensor."""
        found = torch.randn(HIDDEN, HIDDEN) * 0.05 if weight is None else weight
        self.tensors |= quantized(name, found) if fp8 else {f"{name}.weight": found.bfloat16()}

    def drop(self, *ends: str) -> None:
        """Forget the tensors that end so."""
        self.tensors = {n: t for n, t in self.tensors.items() if not n.endswith(ends)}

    def each(self, end: str, change: Callable[[Tensor], Tensor]) -> None:
        """Change every tensor whose name ends so."""
        for name in self.tensors:
            if name.endswith(end):
                self.tensors[name] = change(self.tensors[name])

    def write(self, folder: Path, *, shards: int = 1) -> Path:
        """A folder with all of it."""
        folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.contiguous().clone() for name, tensor in self.tensors.items()}
        if shards == 1:
            save_file(whole, folder / "model.safetensors", {"format": "pt"})
        else:
            self._write_shards(folder, whole, shards)
        (folder / "config.json").write_text(json.dumps(self.config))
        if self.metadata is not None:
            (folder / "hf_quant_config.json").write_text(json.dumps(self.metadata))
        for name, text in self.files.items():
            (folder / name).write_text(text)
        return folder

    @staticmethod
    def _write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
        weight_map: dict[str, str] = {}
        for at in range(shards):
            file = f"model-{at + 1:05}-of-{shards:05}.safetensors"
            own = dict(list(tensors.items())[at::shards])
            save_file(own, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(own, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index))


def healthy(layout: Layout = "modelopt") -> Checkpoint:
    """A Llama of two layers: FP8 static per tensor with an FP8 KV cache in ModelOpt's layout, FP8
    per channel and token in compressed-tensors'; `KEPT` and lm_head in BF16.
    """
    torch.manual_seed(0)
    checkpoint = Checkpoint(layout, {}, _config(), None)
    for name, (rows, columns) in linears().items():
        weight = torch.randn(rows, columns) * 0.05
        if name in {KEPT, "lm_head"}:
            checkpoint.linear(name, weight=weight, fp8=False)
        elif layout == "modelopt":
            checkpoint.linear(name, weight=weight)
        else:
            checkpoint.tensors |= per_channel(name, weight)
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            key = f"model.layers.{layer}.{norm}.weight"
            checkpoint.tensors[key] = torch.ones(HIDDEN, dtype=torch.bfloat16)
        if layout == "modelopt":
            at = f"model.layers.{layer}.self_attn"
            checkpoint.tensors |= {
                f"{at}.{k}_proj.{k}_scale": torch.tensor(0.02 + 0.01 * layer) for k in "kv"
            }
    embedding = torch.randn(VOCABULARY, HIDDEN).bfloat16()
    checkpoint.tensors["model.embed_tokens.weight"] = embedding
    checkpoint.tensors["model.norm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    _describe(checkpoint)
    return checkpoint


def moe() -> Checkpoint:
    """The same in ModelOpt's layout, with a router and four experts in its first layer's MLP."""
    checkpoint = healthy()
    for end in ("gate_proj", "up_proj", "down_proj"):
        name = f"model.layers.0.mlp.{end}"
        checkpoint.drop(*(f"{name}.{t}" for t in ("weight", "weight_scale", "input_scale")))
    checkpoint.linear("model.layers.0.mlp.gate", weight=torch.randn(16, HIDDEN), fp8=False)
    for expert in range(4):
        for shard in ("gate_proj", "up_proj", "down_proj"):
            checkpoint.linear(f"model.layers.0.mlp.experts.{expert}.{shard}")
    return checkpoint


def linears() -> dict[str, tuple[int, int]]:
    """Every linear with its sides."""
    found: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{n}_proj": (HIDDEN, HIDDEN) for n in "qkvo"}
        found |= {f"{at}.mlp.{n}_proj": (WIDE, HIDDEN) for n in ("gate", "up")}
        found[f"{at}.mlp.down_proj"] = (HIDDEN, WIDE)
    return found | {"lm_head": (VOCABULARY, HIDDEN)}


def quantized(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Static per tensor. An input scale that q/k/v and gate/up of a layer share."""
    scale = weight.abs().max() / 448
    last = name.rpartition(".")[2]
    shared = {"o_proj": 0.03, "down_proj": 0.04}.get(last, 0.02)
    return {
        f"{name}.weight": (weight / scale).to(torch.float8_e4m3fn),
        f"{name}.weight_scale": scale.float(),
        f"{name}.input_scale": torch.tensor(shared),
    }


def per_channel(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Per output channel; the input's are made at run time."""
    scale = weight.abs().amax(1, keepdim=True) / 448
    return {
        f"{name}.weight": (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn),
        f"{name}.weight_scale": scale.bfloat16(),
    }


def blocks(name: str, weight: Tensor, side: int = 128) -> dict[str, Tensor]:
    """Per block, as DeepSeek stores it."""
    rows, columns = (-(-size // side) for size in weight.shape)
    scales = torch.empty(rows, columns)
    codes = torch.empty_like(weight)
    for i in range(rows):
        for j in range(columns):
            at = (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            scales[i, j] = weight[at].abs().max() / 448
            codes[at] = weight[at] / scales[i, j]
    return {
        f"{name}.weight": codes.clamp(-448, 448).to(torch.float8_e4m3fn),
        f"{name}.weight_scale_inv": scales,
    }


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": LAYERS,
        "tie_word_embeddings": False,
    }


def _describe(checkpoint: Checkpoint) -> None:
    kept = [KEPT, "lm_head"]
    if checkpoint.layout == "modelopt":
        producer = {"name": "modelopt", "version": "0.47.0"}
        said = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": kept}
        checkpoint.metadata = {"producer": producer, "quantization": said}
        checkpoint.config["quantization_config"] = {
            "quant_method": "modelopt",
            "quant_algo": "FP8",
            "ignore": list(kept),
            "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
            "producer": producer,
        }
        return
    group = {
        "targets": ["Linear"],
        "weights": {**_F8, "strategy": "channel", "dynamic": False},
        "input_activations": {**_F8, "strategy": "token", "dynamic": True},
    }
    checkpoint.config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": kept,
    }
