"""Llamas of random weights, written straight to disk: in BF16, in FP8, and FP8 that is broken.

Nothing is calibrated: input scales are invented, for speed does not depend on them. The plan beside
an FP8 checkpoint says FP8 per tensor, static, of every linear but lm_head.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from fp8scope import __version__
from fp8scope.artefacts import plan as parts
from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import write_plan
from fp8scope.build.finish import copy_beside, write_config, write_metadata
from fp8scope.checkpoint.identity import config_hash, weights_hash
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.core.formats import E4M3
from fp8scope.core.structure import FusedGroup, Structure
from fp8scope.runtime.fp8.codes import quantize
from fp8scope.runtime.structure import discover
from tests.tokenizers import byte_tokenizer

INPUT_AMAX = 8.0
EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """Of a Llama with grouped-query attention."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    def config(self) -> LlamaConfig:
        """With BOS 0, which is that of the tokenizer."""
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=8192,
            rms_norm_eps=EPSILON,
            bos_token_id=0,
            eos_token_id=1,
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
        )


LLAMA_8B = Shape(4096, 14336, 32, 32, 8, 128256)
SMALL = Shape(1024, 2816, 4, 8, 2, 4096)
TINY = Shape(64, 128, 2, 4, 2, 320)


def write_bf16(shape: Shape, folder: Path, device: str = "cpu") -> Path:
    """The model, a file for each layer; drawn on `device`."""
    folder.mkdir()
    shape.config().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    draw = torch.Generator(device).manual_seed(0)
    for number, sizes in enumerate(_by_layer(_described(folder))):
        _save(folder, number, {name: _drawn(size, draw) for name, size in sizes.items()})
    _index(folder)
    return folder


def write_fp8(source: Path, folder: Path, left: Collection[str] = (), device: str = "cpu") -> Path:
    """Its FP8 build, rounded on `device`. `left`: linears that stay in BF16, whatever the plan and
    the metadata say: a build that went wrong.
    """
    folder.mkdir()
    groups = [group for group in _structure(source).groups if group.name != "lm_head"]
    for number, file in enumerate(sorted(source.glob("*.safetensors"))):
        tensors = load_file(file, device)
        for group in groups:
            if f"{group.members[0]}.weight" in tensors:
                tensors |= _codes(group, tensors, left)
        _save(folder, number, tensors)
    _index(folder)
    made: dict[str, Any] = {"producer": {"name": "modelopt", "version": "0"}}
    said: dict[str, Any] = {"quant_algo": "FP8", "kv_cache_quant_algo": None}
    write_metadata(folder, made | {"quantization": said | {"exclude_modules": ["lm_head"]}})
    said |= made | {"quant_method": "modelopt", "ignore": ["lm_head"]}
    write_config(source, folder, said, "bfloat16", "LlamaForCausalLM")
    copy_beside(source, folder)
    write_plan(_plan(source), {}, folder / "plan.json")
    return folder


def _described(folder: Path) -> Any:
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        return auto.from_config(LlamaConfig.from_pretrained(folder), dtype=torch.bfloat16)


def _structure(folder: Path) -> Structure:
    return discover(_described(folder), read_inventory(folder).shapes())


def _by_layer(model: Any) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """Names and sizes of each layer, and of the rest."""
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    layers = len(model.model.layers)
    prefixes = [f"model.layers.{number}." for number in range(layers)]
    for prefix in prefixes:
        yield {name: size for name, size in sizes.items() if name.startswith(prefix)}
    yield {name: size for name, size in sizes.items() if not name.startswith(tuple(prefixes))}


def _drawn(size: tuple[int, ...], draw: torch.Generator) -> Tensor:
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    return torch.empty(size, dtype=torch.bfloat16, device=draw.device).normal_(
        0.0, 0.02, generator=draw
    )


def _codes(
    group: FusedGroup, tensors: Mapping[str, Tensor], left: Collection[str]
) -> dict[str, Tensor]:
    """Codes and scales of its members but those `left`; all have one scale, as engines ask for."""
    weights = {name: tensors[f"{name}.weight"] for name in group.members}
    amax = torch.stack([weight.abs().amax() for weight in weights.values()]).amax()
    scale = amax.float() / E4M3.max
    found = {}
    for name, weight in weights.items():
        if name not in left:
            found[f"{name}.weight"] = quantize(weight, scale)
            found[f"{name}.weight_scale"] = scale.clone()
            found[f"{name}.input_scale"] = torch.tensor(INPUT_AMAX / E4M3.max)
    return found


def _save(folder: Path, number: int, tensors: Mapping[str, Tensor]) -> None:
    path = folder / f"model-{number:05}.safetensors"
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path, {"format": "pt"})


def _index(folder: Path) -> None:
    """What transformers finds the files by."""
    where: dict[str, str] = {}
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                where[name] = file.name
                total += entry["data_offsets"][1] - entry["data_offsets"][0]
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _plan(source: Path) -> Plan:
    """FP8 everywhere but in lm_head, as if it had been decided."""
    structure = _structure(source)
    group_of = {member: group.name for group in structure.groups for member in group.members}
    nothing = parts.Nats(kl=0.0, error=0.0)
    return Plan(
        fp8scope=__version__,
        model=parts.ModelId(
            name=source.name,
            architecture="LlamaForCausalLM",
            model_type="llama",
            family=structure.family,
            dtype="bfloat16",
            config_hash=config_hash(source),
            weights_hash=weights_hash(read_inventory(source)),
        ),
        profile=parts.ProfileId(
            profile_hash="0" * 64, settings={}, tags=(), sequences=0, scored_sequences=0,
            tokens=0, sources=(),
        ),
        objective=parts.Objective(
            limit="max_bf16_share", value=0.0, preset=None, candidates=("fp8_tensor",), kept=(),
            excluded=(), kv_cache="bf16",
        ),
        cost=parts.CostSource(
            source="roofline", gpu="h200-sxm", batch=8, context=2048, generate=128
        ),
        summary="everything in FP8, invented for a benchmark",
        modules=tuple(
            parts.Module(
                name=linear.name,
                group=group_of[linear.name],
                in_features=linear.in_features,
                out_features=linear.out_features,
                experts=0,
                bias=linear.bias,
                transposed=False,
                checkpoint_weight=linear.checkpoint_weight,
                checkpoint_shards=(),
                tied_to=linear.tied_to,
            )
            for linear in structure.linears
        ),
        groups=tuple(map(_group, structure.groups)),
        folds=(),
        factors=None,
        kv_cache=tuple(
            parts.Cache(
                layer=layer.layer, attention=layer.attention, name=layer.group, precision="bf16"
            )
            for layer in structure.kv_layers
        ),
        ignore=("lm_head",),
        predicted=parts.Predicted(
            nats=nothing, tags={}, plain_fp8=nothing, effective_bits=8.0, bf16_share=0.0,
            step_time_us=0.0, bf16_step_time_us=0.0, fp8_step_time_us=0.0,
        ),
        frontier=(),
    )  # fmt: skip


def _group(group: FusedGroup) -> parts.Group:
    bf16 = group.name == "lm_head"
    scale = parts.Scale(
        members=group.members, input_amax=INPUT_AMAX, input_scale=INPUT_AMAX / E4M3.max
    )
    return parts.Group(
        name=group.name,
        members=group.members,
        precision="bf16" if bf16 else "fp8_tensor",
        decided=not bf16,
        reason="invented for a benchmark",
        scales=() if bf16 else (scale,),
        evidence=parts.Evidence(
            kl=0.0, kl_error=0.0, candidates={}, fp8_time_us=0.0, bf16_time_us=0.0
        ),
    )
