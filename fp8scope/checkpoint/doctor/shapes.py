"""The sizes in config.json against the shapes of tensors, of text models that are well known."""

from __future__ import annotations

from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import ASIDE, LAYER, Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.naming import TEXT_MODELS
from fp8scope.checkpoint.linears import FLOAT8, PLAIN

# others compute their sides otherwise: MLA, gated queries, layers of several widths
_KNOWN = TEXT_MODELS | {
    "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "GemmaForCausalLM", "Gemma3ForCausalLM",
}  # fmt: skip
# elsewhere config.json says head_dim, or the class has a default that is not in it
_DERIVED = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "phi3"}
_QUERIES = "num_attention_heads * head_dim"
_KEYS = "num_key_value_heads * head_dim"
# what [out, in] should be, by the end of the name
_OUTSIDE = {"embed_tokens": ("vocab_size", "hidden_size"), "lm_head": ("vocab_size", "hidden_size")}
_BLOCK = {
    "self_attn.q_proj": (_QUERIES, "hidden_size"),
    "self_attn.k_proj": (_KEYS, "hidden_size"),
    "self_attn.v_proj": (_KEYS, "hidden_size"),
    "self_attn.o_proj": ("hidden_size", _QUERIES),
    "mlp.gate_proj": ("intermediate_size", "hidden_size"),
    "mlp.up_proj": ("intermediate_size", "hidden_size"),
    "mlp.down_proj": ("hidden_size", "intermediate_size"),
}


def shape_faults(contents: Contents) -> Iterator[Fault]:
    """Sizes that the embedding, the output layer or the first block does not have."""
    if contents.architecture not in _KNOWN:
        return
    sizes = _sizes(contents)
    apart: dict[str, dict[str, int]] = {}
    for name, keys in _places(contents):
        tensor = contents.tensors.get(f"{name}.weight")
        if tensor is None or len(tensor.shape) != 2 or tensor.dtype not in PLAIN | {FLOAT8}:
            continue
        for key, side in zip(keys, tensor.shape, strict=True):
            if key in sizes and sizes[key] != side:
                apart.setdefault(key, {})[name] = side
    if apart:
        words = []
        for key, sides in apart.items():
            name, side = next(iter(sides.items()))
            words.append(f"{key} is {sizes[key]:,} in config.json and {side:,} in {name}")
        names = tuple(dict.fromkeys(name for sides in apart.values() for name in sides))
        remedy = "put the config.json of this model there: engines refuse the weights"
        yield Fault("config-shape", "error", "; ".join(words), remedy, names)


def _sizes(contents: Contents) -> dict[str, int]:
    def size(key: str) -> int | None:
        value = contents.text(key)
        return value if type(value) is int and value > 0 else None

    hidden, heads, head = size("hidden_size"), size("num_attention_heads"), size("head_dim")
    if head is None and hidden and heads and contents.text("model_type") in _DERIVED:
        head = hidden // heads
    keys = size("num_key_value_heads")
    found = {key: size(key) for key in ("hidden_size", "intermediate_size", "vocab_size")}
    found[_QUERIES] = heads * head if heads and head else None
    found[_KEYS] = keys * head if keys and head else None
    return {key: value for key, value in found.items() if value is not None}


def _places(contents: Contents) -> Iterator[tuple[str, tuple[str, str]]]:
    layers = {
        int(found["number"]): found[0]
        for name in contents.tensors
        if (found := LAYER.match(name)) and not ASIDE.search(name)
    }
    block = layers[min(layers)] if layers else ""
    for end, keys in _BLOCK.items():
        yield f"{block}{end}", keys
    stem = block.rpartition("layers.")[0]
    for end, keys in _OUTSIDE.items():
        for name in {end, f"{stem}{end}"}:
            yield name, keys
