"""FP8 checkpoints written by hand in each format, and what a model computes that runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, PreTrainedModel

from fp8scope.checkpoint.schemes import ALGORITHM_OF, SCHEMES
from fp8scope.core.modules import Treatment
from fp8scope.runtime.experts import named_experts
from fp8scope.runtime.fp8.cache import Fp8Cache, KVScales
from fp8scope.runtime.fp8.codes import dequantize_weight
from fp8scope.runtime.fp8.linear import Fp8Linear
from tests.runtime.fp8.reference import codes_of, read, weight_scale
from tests.tokenizers import byte_tokenizer

Choose = Callable[[str], Treatment]
FORMATS = ("modelopt", "compressed-tensors", "fp8")
PLAIN = (
    "embed",
    "norm",
    "mlp.gate.weight",
    "block_sparse_moe.gate.weight",
    "wte",
    "wpe",
)


@dataclass
class Written:
    """A checkpoint, and by file name what is in it."""

    folder: Path
    layout: str
    tensors: dict[str, Tensor]
    linears: dict[str, Fp8Linear] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def save(self) -> Path:
        """Write it again, after `tensors` or `config` were changed."""
        save_file({k: v.contiguous() for k, v in self.tensors.items()}, self.weights)
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return self.folder

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"


def write(
    model: PreTrainedModel,
    folder: Path,
    choose: Choose | Treatment = "fp8_tensor",
    *,
    layout: str = "modelopt",
    kv: tuple[float, float] | None = None,
    heads: bool = False,
) -> Written:
    """The linears of `model` as `choose` says by file name, the output layer with `heads` alone.

    All scales differ from each other.
    """
    kept = PLAIN if heads else (*PLAIN, "lm_head")
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    written = Written(folder, layout, load_file(folder / "model.safetensors"))
    written.config = json.loads((folder / "config.json").read_text())
    chosen: dict[str, Treatment] = {}
    for name, weight in list(written.tensors.items()):
        if weight.ndim != 2 or any(word in name for word in kept):
            continue
        treatment = choose if isinstance(choose, str) else choose(name.removesuffix(".weight"))
        if treatment != "bf16":
            chosen[name.removesuffix(".weight")] = treatment
            _quantize(written, name, treatment, number=len(chosen))
    if kv is not None:
        for layer in range(model.config.num_hidden_layers):
            _cache_scales(written, f"model.layers.{layer}.self_attn", kv)
    written.config["quantization_config"] = _metadata(layout, chosen, kv is not None)
    written.save()
    return written


def _quantize(written: Written, name: str, treatment: Treatment, number: int) -> None:
    weight, module = written.tensors[name].float(), name.removesuffix(".weight")
    scale = weight_scale(weight, treatment)
    static = torch.tensor(0.05 + 0.0005 * number) if treatment == "fp8_tensor" else None
    held = Fp8Linear(codes_of(weight, scale), scale, static)
    compressed, inverse = written.layout == "compressed-tensors", written.layout == "fp8"
    if compressed:  # as its own modules declare them
        scale = scale[:, None] if treatment == "fp8_token" else torch.atleast_1d(scale)
        static = None if static is None else static[None]
    if written.layout == "modelopt" and treatment == "fp8_block":
        scale = scale[:, None, :, None]
    written.linears[module] = held
    written.tensors[name] = held.weight.data
    written.tensors[f"{module}.weight_scale{'_inv' * inverse}"] = scale
    if static is not None:
        written.tensors[f"{module}.{'activation' if inverse else 'input'}_scale"] = static


def _cache_scales(written: Written, attention: str, kv: tuple[float, float]) -> None:
    for role, scale in zip("kv", kv, strict=True):
        apart = f".{role}_proj" if written.layout == "modelopt" else ""
        written.tensors[f"{attention}{apart}.{role}_scale"] = torch.tensor(scale)


def _metadata(layout: str, chosen: Mapping[str, Treatment], kv: bool) -> dict[str, Any]:
    said = sorted(set(chosen.values()))
    cache = {"num_bits": 8, "type": "float", "dynamic": False}
    shared = {"kv_cache_scheme": cache} if kv else {}
    if layout == "compressed-tensors":
        groups = {
            f"group_{i}": {
                "targets": [name for name, t in chosen.items() if t == treatment],
                **SCHEMES[treatment],
            }
            for i, treatment in enumerate(said)
        }
        return {
            "quant_method": layout,
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ["lm_head"],
            **shared,
        }
    if layout == "fp8":
        blocks = {"weight_block_size": [128, 128]} if said == ["fp8_block"] else {}
        scheme = "static" if said == ["fp8_tensor"] else "dynamic"
        return {"quant_method": "fp8", "activation_scheme": scheme, **blocks, **shared}
    layers = {name: {"quant_algo": ALGORITHM_OF[t]} for name, t in chosen.items()}
    mixed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    one = mixed if len(said) > 1 else {"quant_algo": ALGORITHM_OF[said[0]]}
    return {"quant_method": "modelopt", "ignore": ["lm_head"], **one, **shared}


def expected(written: Written, ids: Tensor, kv: Mapping[int, KVScales] | None = None) -> Tensor:
    """Logits of transformers' own model that holds the dequantized weights, each linear's input
    quantized by the reference before it; routed experts (Mixtral's) in a plain loop.
    """
    plain = written.folder.parent / f"{written.folder.name}-dequantized"
    plain.mkdir(exist_ok=True)
    scales = ("_scale", "_scale_inv")
    tensors = {n: t for n, t in written.tensors.items() if not n.endswith(scales)}
    for module, held in written.linears.items():
        tensors[f"{module}.weight"] = dequantize_weight(held.weight, held.weight_scale)
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in written.config.items() if k != "quantization_config"}
    (plain / "config.json").write_text(json.dumps(config))
    model: Any = AutoModelForCausalLM.from_pretrained(plain)
    for module, held in written.linears.items():
        if ".experts." not in module:
            _read_before(model.get_submodule(module), held)
    for name, experts in named_experts(model).items():
        prefix = name.replace(".mlp.", ".block_sparse_moe.")
        if f"{prefix}.0.w1" in written.linears:
            experts.module.forward = _expert_loop(experts.module, written, prefix)
    cache = Fp8Cache(kv, model.config) if kv else None
    with torch.no_grad():
        output = model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
    logits: Tensor = output.logits
    return logits


def _read_before(module: nn.Module, held: Fp8Linear) -> None:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        return (read(held, x.reshape(-1, x.shape[-1])).view(x.shape).to(x.dtype), *args[1:])

    module.register_forward_pre_hook(hook)


def _expert_loop(module: Any, written: Written, prefix: str) -> Callable[..., Tensor]:
    def run(expert: int, part: str, x: Tensor) -> Tensor:
        held = written.linears[f"{prefix}.{expert}.{part}"]
        weight = dequantize_weight(held.weight, held.weight_scale)
        return linear(read(held, x[None]), weight)[0]

    def forward(hidden: Tensor, index: Tensor, by: Tensor) -> Tensor:
        out = torch.zeros_like(hidden)
        for token, (experts, weights) in enumerate(zip(index.tolist(), by, strict=True)):
            for expert, weight in zip(experts, weights, strict=True):
                gate, up = (run(expert, part, hidden[token]) for part in ("w1", "w3"))
                out[token] += weight * run(expert, "w2", module.act_fn(gate) * up)
        return out

    return forward
