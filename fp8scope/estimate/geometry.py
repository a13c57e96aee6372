"""The layers of attention of a model, by its config.json, else by the shapes in a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fp8scope.artefacts.plan import Module as PlanModule
from fp8scope.artefacts.plan import Plan
from fp8scope.errors import BadModel
from fp8scope.estimate.served import Attention, CachePrecision

QKV = frozenset(
    {"qkv", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "wqkv", "W_pack", "k_proj"}
)
"""Names of the matmul that makes keys and values, other than under MLA."""
LATENT = frozenset({"kv_a_proj_with_mqa"})
MOST_LAYERS = 10_000
_LAYER = re.compile(r"\.(\d+)\.(?:.*\.)?([^.]+)$")
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}
"""Every so many layers one looks at everything, where an old config leaves that to the code."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that is about text."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def size(config: Mapping[str, Any], *names: str) -> int:
    """The first of these entries that is a number above 0; 0 where none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def heads(config: Mapping[str, Any]) -> tuple[int, int]:
    """Query heads and KV heads; 0 where config.json does not say. MLA caches one head."""
    text = text_config(config)
    query = size(text, "num_attention_heads", "n_head", "n_heads")
    if size(text, "kv_lora_rank"):
        return query, 1
    return query, size(text, "num_key_value_heads", "num_kv_heads") or query


def layers_of(
    config: Mapping[str, Any], gemms: Iterable[str], own: CachePrecision
) -> tuple[Attention, ...]:
    """Every layer that caches keys and values, by config.json.

    gemms: names of the matmuls; layers without one that makes keys have no cache (Mamba, linear
    attention). Raises BadModel where config.json lacks heads, layers or widths.
    """
    text = text_config(config)
    count, (query, kv) = size(text, "num_hidden_layers", "n_layer", "n_layers"), heads(config)
    hidden = size(text, "hidden_size", "n_embd", "d_model")
    if not (count and query and hidden):
        what = "config.json does not say how many layers and heads the model has, and how wide"
        raise BadModel(what, "give the folder of a language model")
    if count > MOST_LAYERS:
        raise BadModel(f"config.json says that there are {count:,} layers", "fetch it again")
    shape = _latent(text, query) or _plain(text, query, kv, hidden)
    caching = {number for number, last in _numbered(gemms) if last in QKV | LATENT}
    windows = _windows(text, count)
    return tuple(
        Attention(f"layers.{i}", **shape, window=windows[i], own=own)
        for i in range(count)
        if i in caching or not caching
    )


def layers_of_plan(plan: Plan) -> tuple[Attention, ...]:
    """The same by the shapes of a plan's linears; each layer is taken to be one head.

    Layers whose keys and values cannot be told by name are missing.
    """
    linears = {linear.name: linear for linear in plan.modules}
    found = []
    for cache in plan.kv_cache:
        widths = _widths(cache.attention, linears)
        if widths:
            query, key, value, output = widths
            found.append(
                Attention(
                    cache.attention, 1, 1, key, value, query, output, query, output,
                    own=cache.precision,
                )
            )  # fmt: skip
    return tuple(found)


def _numbered(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    for name in names:
        if match := _LAYER.search(f".{name}"):
            yield int(match[1]), match[2]


def _plain(text: Mapping[str, Any], query: int, kv: int, hidden: int) -> dict[str, int]:
    width = size(text, "head_dim") or hidden // query
    return {
        "heads": query, "kv_heads": kv, "key": width, "value": width,
        "query": width, "output": width, "decode_query": width, "decode_output": width,
    }  # fmt: skip


def _latent(text: Mapping[str, Any], query: int) -> dict[str, int] | None:
    """MLA (DeepSeek-V2, arXiv 2405.04434): the cache holds a latent and the rotated part of the
    key; decode multiplies queries with those, prefill unfolds them into heads.
    """
    latent, rotated = size(text, "kv_lora_rank"), size(text, "qk_rope_head_dim")
    if not latent:
        return None
    return {
        "heads": query, "kv_heads": 1, "key": latent + rotated, "value": 0,
        "query": size(text, "qk_nope_head_dim") + rotated, "output": size(text, "v_head_dim"),
        "decode_query": latent + rotated, "decode_output": latent,
    }  # fmt: skip


def _windows(text: Mapping[str, Any], count: int) -> Sequence[int | None]:
    """How far each layer looks back, by the keys that transformers' configs have for it."""
    window = size(text, "sliding_window") or None
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and len(kinds) >= count:
        chunk = size(text, "attention_chunk_size") or window
        widths = {"sliding_attention": window, "chunked_attention": chunk}
        return [widths.get(str(kind)) for kind in kinds]
    if window is None or not text.get("use_sliding_window", True):
        return [None] * count
    period = size(text, "sliding_window_pattern") or _PERIODS.get(str(text.get("model_type")), 0)
    if period:
        return [window if (i + 1) % period else None for i in range(count)]
    first = size(text, "max_window_layers")
    return [window if i >= first else None for i in range(count)]


def _widths(attention: str, linears: Mapping[str, PlanModule]) -> tuple[int, int, int, int] | None:
    """Numbers of a token in queries, keys, values and outputs, over all heads."""

    def linear(*names: str) -> PlanModule | None:
        return next(
            (linears[f"{attention}.{n}"] for n in names if f"{attention}.{n}" in linears), None
        )

    output = linear("o_proj", "out_proj", "dense", "c_proj")
    if latent := linear("kv_a_proj_with_mqa"):
        query = linear("q_b_proj", "q_proj")
        width = latent.out_features
        return (
            query.out_features if query else width,
            width,
            0,
            output.in_features if output else width,
        )
    query, key, value = linear("q_proj"), linear("k_proj"), linear("v_proj")
    if query and key and value:
        return query.out_features, key.out_features, value.out_features, query.out_features
    fused = linear(*QKV)
    if fused and output and fused.out_features > output.in_features:
        each = (fused.out_features - output.in_features) // 2
        return output.in_features, each, each, output.in_features
    return None
