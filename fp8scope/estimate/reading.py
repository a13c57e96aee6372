"""From a folder, a hub id or a plan.json to what is served. Of weights only headers are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fp8scope.artefacts.plan import Plan
from fp8scope.artefacts.plan_file import read_plan
from fp8scope.checkpoint.declared import declare
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.hub import is_hub_id, read_remote
from fp8scope.checkpoint.inventory import Inventory, read_shapes
from fp8scope.checkpoint.linears import FLOAT8, PLAIN, linears
from fp8scope.core.gemms import USUAL_EXPERTS_PER_TOKEN, experts_per_token
from fp8scope.core.modules import Module
from fp8scope.errors import BadInput, BadModel, one_line
from fp8scope.estimate.gemms import gemms_of, gemms_of_plan, planned
from fp8scope.estimate.geometry import heads, layers_of, layers_of_plan, size, text_config
from fp8scope.estimate.served import Attention, CachePrecision, Gemm, Served

_TOWER = re.compile(r"(^|\.)(vision\w*|visual|audio\w*|multi_modal_projector|mm_projector)\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_SCALES = ("scale", "scale_inv", "scales", "_amax", "zero_point")
_PACKED_SHARE = 0.05
"""Of a model's numbers: more in a dtype that is not known here, and it is another quantization."""

GUESSED_EXPERTS = f"how many experts a token goes through: {USUAL_EXPERTS_PER_TOKEN} are taken"


@dataclass(frozen=True)
class _Files:
    """A model as it lies somewhere: config.json, what else tells of its cache, and the headers."""

    name: str
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    inventory: Inventory


def read_served(reference: str, model: str | None = None) -> Served:
    """What `reference` serves: the folder of a model or of an FP8 checkpoint, a hub id, of which
    config.json and headers are fetched, or a plan.json.

    model: of a plan, the folder or hub id that it was made for, which tells what a plan does not
    hold: embeddings, norms, heads, windows. Raises BadInput (nothing there, another quantization),
    Stale (a plan of another model), and what reading plans and checkpoints raises.
    """
    path = Path(reference)
    if not path.is_file():
        if model is not None:
            what = f"{reference} is no plan, and has its own shapes"
            raise BadInput(what, "leave out --model")
        return _of_files(_files(reference))
    plan = read_plan(path)
    return _of_plan(plan) if model is None else _of_files(_files(model), plan)


def _files(reference: str) -> _Files:
    path = Path(reference)
    if path.is_dir():
        metadata = path / "hf_quant_config.json"
        return _Files(
            path.name or str(path.resolve().name),
            _object(path / "config.json"),
            _object(metadata) if metadata.is_file() else {},
            read_shapes(path),
        )
    if is_hub_id(reference) and not path.parent.is_dir():
        config, inventory = read_remote(reference)
        return _Files(reference, config, {}, inventory)
    remedy = "give a folder with a model or a checkpoint, a plan.json, or a hub id (org/name)"
    raise BadInput(f"there is no {reference}", remedy)


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadModel(f"{path.parent}: no {path.name}", "give a model's folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path}: cannot be read ({one_line(error)})", "fetch it again") from error
    if not isinstance(data, dict):
        raise BadModel(f"{path}: not a JSON object", "fetch the file again")
    return data


def _of_files(files: _Files, plan: Plan | None = None) -> Served:
    tensors = {tensor.name: tensor for tensor in files.inventory.tensors}
    _refuse_packed(files.name, tensors)
    text = text_config(files.config)
    layers = size(text, "num_hidden_layers", "n_layer", "n_layers")
    every = [m for m in linears(files.inventory, files.config) if m.out_features]
    used = [m for m in every if not (_TOWER.search(m.name) or _beyond(m.name, layers))]
    if not used:
        raise BadInput(f"{files.name} holds no linear layers", "give a language model")
    if plan is not None:
        used = list(planned(used, plan))
    gemms = gemms_of(used, tensors)
    is_fp8 = any(gemm.own != "bf16" for gemm in gemms)
    attention = layers_of(files.config, (gemm.name for gemm in gemms), _cache(files, tensors))
    if plan is not None:
        attention = _as_planned(attention, plan)
    embedding, others = _rest(tensors, used, layers)
    query, kv = heads(files.config)
    chosen = experts_per_token(files.config)
    return Served(
        name=plan.model.name if plan else files.name,
        source="plan" if plan else "checkpoint" if is_fp8 else "model",
        gemms=gemms,
        attention=attention,
        hidden=size(text, "hidden_size", "n_embd", "d_model"),
        heads=query,
        kv_heads=kv,
        experts_per_token=chosen or USUAL_EXPERTS_PER_TOKEN,
        embedding=embedding,
        others=others,
        left_out=tuple(_left_out(every, gemms, layers, knows_experts=chosen is not None)),
    )


def _of_plan(plan: Plan) -> Served:
    gemms = gemms_of_plan(plan)
    attention = layers_of_plan(plan)
    left_out = [
        "embeddings and norms, which a plan does not hold, and sliding windows if the model has "
        "them: --model tells",
    ]
    if missing := len(plan.kv_cache) - len(attention):
        left_out.append(f"the KV cache of {missing} layers, which the plan's shapes do not tell")
    if any(gemm.shape.experts for gemm in gemms):
        left_out.append(GUESSED_EXPERTS)
    return Served(
        name=plan.model.name,
        source="plan",
        gemms=gemms,
        attention=attention,
        hidden=next((g.shape.in_features for g in gemms if g.kind == "lm_head"), 0),
        heads=0,
        kv_heads=0,
        experts_per_token=USUAL_EXPERTS_PER_TOKEN,
        left_out=tuple(left_out),
    )


def _as_planned(attention: tuple[Attention, ...], plan: Plan) -> tuple[Attention, ...]:
    own: dict[int, CachePrecision] = {cache.layer: cache.precision for cache in plan.kv_cache}
    numbered = ((int(layer.name.rpartition(".")[2]), layer) for layer in attention)
    return tuple(replace(layer, own=own.get(i, "bf16")) for i, layer in numbered)


def _beyond(name: str, layers: int) -> bool:
    """Whether it is of a layer behind the last, which predicts further tokens."""
    match = _LAYER.search(name)
    return bool(layers and match and int(match[1]) >= layers)


def _refuse_packed(name: str, tensors: Mapping[str, TensorEntry]) -> None:
    """Raises BadInput for weights in a format that is neither 16 bits nor FP8."""
    known = PLAIN | {FLOAT8}
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        if not tensor.name.endswith(_SCALES):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    strange = {dtype: size for dtype, size in sizes.items() if dtype not in known}
    if sum(strange.values()) > _PACKED_SHARE * sum(sizes.values()):
        what = f"{name} holds weights in {max(strange, key=lambda d: strange[d])}"
        raise BadInput(what, "BF16, FP16 and FP8 are known: give the model that it was made from")


def _cache(files: _Files, tensors: Mapping[str, TensorEntry]) -> CachePrecision:
    """What the cache is stored in, by the metadata or the scales in the files."""
    said = [files.config.get("quantization_config"), files.metadata]
    caches = {declare(data, "").kv_cache for data in said if isinstance(data, Mapping) and data}
    has_scales = any(name.endswith(".k_scale") for name in tensors)
    return "fp8" if has_scales or caches & {"fp8", "fp8_dynamic"} else "bf16"


def _rest(tensors: Mapping[str, TensorEntry], used: list[Module], layers: int) -> tuple[int, int]:
    """Numbers in the embeddings, and in whatever else is no matmul: norms, biases, towers."""
    weights = {name for module in used for name in (module.name, f"{module.name}.weight")}
    embedding = others = 0
    for name, tensor in tensors.items():
        if name in weights or name.endswith(_SCALES) or _beyond(name, layers):
            continue
        count = math.prod(tensor.shape)
        if len(tensor.shape) == 2 and not _TOWER.search(name):
            embedding += count
        else:
            others += count
    return embedding, others


def _left_out(
    every: Iterable[Module], gemms: Iterable[Gemm], layers: int, *, knows_experts: bool
) -> Iterator[str]:
    names = [module.name for module in every]
    if any(map(_TOWER.search, names)):
        yield "the time of the towers for images or sound; their weights count, in BF16"
    if any(_beyond(name, layers) for name in names):
        yield f"layers after the first {layers}, which predict further tokens (MTP)"
    if any(gemm.own == "other" for gemm in gemms):
        yield "scales of FP8 weights that are of no known kind: one per tensor is taken"
    if any(gemm.shape.experts for gemm in gemms) and not knows_experts:
        yield GUESSED_EXPERTS
