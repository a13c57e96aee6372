"""What a checkpoint's metadata says of every linear, by the rules of its format.

ModelOpt's (nested and flat), compressed-tensors', fp8 and fbgemm_fp8. Engines depart from these
rules, each in its own way (docs/reference/consumers.md); this is the letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp8scope.checkpoint.declaration import (
    BF16,
    OTHER,
    Cache,
    Complaint,
    Declaration,
    Scheme,
    Weights,
)
from fp8scope.checkpoint.entries import Form, Names, is_broken
from fp8scope.checkpoint.schemes import strategy

LISTS = ("exclude_modules", "ignore", "ignored_layers", "modules_to_not_convert")

# quant_method of libraries whose lists are not read here
_OTHER_METHODS = frozenset(
    {
        "awq", "gptq", "bitsandbytes", "quanto", "torchao", "quark", "mxfp4", "mxfp8", "hqq",
        "aqlm", "higgs", "spqr", "vptq", "auto-round", "bitnet", "fp_quant", "gguf", "modelopt_fp4",
        "deepspeedfp", "w8a8_fp8", "petit_nvfp4", "inc", "eetq",
    }
)  # fmt: skip
_OTHER_ALGORITHMS = frozenset(
    {
        "W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W4A16_GPTQ", "W8A16_GPTQ", "INT8",
        "W8A8_SQ_PER_CHANNEL", "W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
        "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "NVFP4",
        "NVFP4_AWQ", "NVFP4_SVD", "W4A16_NVFP4", "W4A8_NVFP4_FP8", "W4A8_MXFP4_FP8",
        "W4A8_QSERVE_PER_CHANNEL", "W4A8_QSERVE_PER_GROUP", "MXFP8", "MXFP4", "W4A16_MXFP4",
        "IQ2_XS", "IQ2_XXS", "Q8_0",
    }
)  # fmt: skip
_ALGORITHMS: dict[str, Scheme] = {
    "FP8": Scheme("tensor", static=True),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme("channel"),
    "FP8_PB_WO": Scheme("block"),
    "FP8_BLOCK_SCALES": Scheme("block"),
}
# compressed-tensors' of FP8; under mixed-precision each group may say its own
_FORMATS = {None, "float-quantized", "naive-quantized", "mixed-precision"}


def declare(data: Mapping[str, Any], file: str) -> Declaration:
    """Read `quantization_config` of config.json, or hf_quant_config.json. Never raises for what it
    says: what is not understood is in `complaints`.
    """
    section = data["quantization"] if isinstance(data.get("quantization"), Mapping) else data
    method = str(data.get("quant_method") or "").lower()
    if section is not data or "quant_algo" in data or method == "modelopt":
        return _modelopt(section, file, method)
    if method == "compressed-tensors" or (not method and "config_groups" in data):
        return _compressed(data, file)
    if method in {"fp8", "fbgemm_fp8"}:
        return _fp8(data, file, method)
    known = method in _OTHER_METHODS
    what = f"quant_method of {file} is {method!r}" if method else f"{file} has no quant_method"
    remedy = "one of modelopt, compressed-tensors, fp8, fbgemm_fp8"
    words = f"{what}, whose lists are not read here" if known else f"{what}, which no engine knows"
    return _none(file, Complaint("quant-method-unknown", words, remedy, known))


def _none(file: str, complaint: Complaint) -> Declaration:
    nothing = Names("unknown", ())
    return Declaration("unknown", file, OTHER, None, {}, nothing, None, (complaint,))


def _modelopt(section: Mapping[str, Any], file: str, method: str) -> Declaration:
    complaints: list[Complaint] = []
    if method and not method.startswith("modelopt"):
        what = f"quant_method of {file} is {method!r}, and the keys are ModelOpt's"
        complaints.append(Complaint("quant-method-unknown", what, "say modelopt"))
    listed = _listed(section, "modelopt", file, complaints)
    cache = section.get("kv_cache_quant_algo", section.get("kv_cache_scheme"))
    said, targets, asked = section.get("quant_algo"), None, {}
    if str(said).upper() == "MIXED_PRECISION":
        asked = _mixed(section, file, complaints)
        targets, scheme = Names("modelopt", tuple(asked)), BF16
    elif said is None and cache is not None:
        scheme = BF16  # the KV cache alone
    else:
        scheme = _algorithm(said, section.get("group_size"), file, complaints)
    return Declaration(
        "modelopt", file, scheme, targets, asked, listed, _cache(cache), tuple(complaints)
    )


def _mixed(section: Mapping[str, Any], file: str, complaints: list[Complaint]) -> dict[str, Scheme]:
    layers = section.get("quantized_layers")
    if not isinstance(layers, Mapping) or not layers:
        what = f"{file} says MIXED_PRECISION and has no quantized_layers"
        remedy = "name each quantized layer there, with its quant_algo"
        complaints.append(Complaint("metadata-malformed", what, remedy))
        return {}
    asked = {}
    for name, each in layers.items():
        own: Mapping[str, Any] = each if isinstance(each, Mapping) else {}
        own_complaints: list[Complaint] = []
        asked[name] = _algorithm(
            own.get("quant_algo"), own.get("group_size"), f"{name} in {file}", own_complaints
        )
        complaints += own_complaints[: not complaints]  # one tells enough
    return asked


def _algorithm(said: Any, size: Any, where: str, complaints: list[Complaint]) -> Scheme:
    name = said.upper() if isinstance(said, str) else ""
    found = _ALGORITHMS.get(name)
    if found is not None and found.weights == "block" and isinstance(size, int) and size > 0:
        return Scheme("block", block=(size, size))
    if found is None and name not in _OTHER_ALGORITHMS:
        what = f"quant_algo of {where} is {said!r}, which no engine knows"
        complaints.append(Complaint("quant-algo-unknown", what, f"one of {', '.join(_ALGORITHMS)}"))
    return found or OTHER


def _compressed(data: Mapping[str, Any], file: str) -> Declaration:
    complaints: list[Complaint] = []
    listed = _listed(data, "compressed-tensors", file, complaints)
    asked: dict[str, Scheme] = {}
    groups = data.get("config_groups")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
            what = f"{name} of config_groups in {file} has no list of targets"
            complaints.append(Complaint("metadata-malformed", what, "give it one"))
            continue
        scheme = _arguments(group)
        asked |= dict.fromkeys(targets, scheme)
        layout = group.get("format") or data.get("format")
        if scheme.granularity is not None and not (
            isinstance(layout, str | None) and layout in _FORMATS
        ):
            what = f"format of {name} in {file} is {layout!r}, and its weights are said to be FP8"
            complaints.append(Complaint("format-not-fp8", what, "say float-quantized"))
    if not isinstance(groups, Mapping) or not groups:
        what = f"{file} says compressed-tensors and has no config_groups"
        complaints.append(Complaint("metadata-malformed", what, "give each group its targets"))
    broken = [t for t in (*asked, *listed.entries) if is_broken(t)]
    if broken:
        what = f"{broken[0]!r} in {file} is no regular expression"
        remedy = "what is `*` in a glob is `.*` in one"
        complaints.append(Complaint("metadata-malformed", what, remedy))
    in_order = Names("compressed-tensors", tuple(sorted(asked)))
    cache = data.get("kv_cache_scheme")
    return Declaration(
        "compressed-tensors", file, BF16, in_order, asked, listed, _cache(cache), tuple(complaints)
    )


def _arguments(group: Mapping[str, Any]) -> Scheme:
    weights, inputs = group.get("weights"), group.get("input_activations")
    if weights is None and inputs is None:
        return BF16
    if not isinstance(weights, Mapping) or not _is_float8(weights):
        return OTHER
    if inputs is not None and not (isinstance(inputs, Mapping) and _is_float8(inputs)):
        return OTHER
    how = strategy(weights)
    granularity: Weights = (
        "tensor" if how == "tensor"
        else "channel" if how == "channel"
        else "block" if how == "block"
        else "other"
    )  # fmt: skip
    static = inputs is not None and not inputs.get("dynamic", False)
    return Scheme(granularity, static, _sides(weights.get("block_structure")))


def _fp8(data: Mapping[str, Any], file: str, method: str) -> Declaration:
    complaints: list[Complaint] = []
    form: Form = "fp8" if method == "fp8" else "fbgemm_fp8"
    listed = _listed(data, form, file, complaints)
    scheme = Scheme("channel")
    if form == "fp8":
        inputs, block = data.get("activation_scheme", "dynamic"), data.get("weight_block_size")
        if inputs not in ("static", "dynamic"):
            what = f"activation_scheme of {file} is {inputs!r}"
            complaints.append(Complaint("metadata-malformed", what, "static or dynamic"))
        weights: Weights = "tensor" if block is None else "block"
        scheme = Scheme(weights, inputs == "static", _sides(block))
    cache = _cache(data.get("kv_cache_scheme", data.get("kv_cache_quant_algo")))
    return Declaration(form, file, scheme, None, {}, listed, cache, tuple(complaints))


def _listed(
    section: Mapping[str, Any], form: Form, file: str, complaints: list[Complaint]
) -> Names:
    found: list[str] = []
    for key in LISTS:
        entries = section.get(key) or []
        if isinstance(entries, list) and all(isinstance(each, str) for each in entries):
            found += entries
        else:
            what = f"{key} of {file} is not a list of names"
            complaints.append(Complaint("metadata-malformed", what, "write it as one"))
    return Names(form, tuple(dict.fromkeys(found)))


def _cache(said: Any) -> Cache | None:
    if not said:
        return None
    if isinstance(said, Mapping):
        if not _is_float8(said):
            return "other"
        return "fp8_dynamic" if said.get("dynamic", False) else "fp8"
    words: dict[str, Cache] = {"fp8": "fp8", "static": "fp8", "dynamic": "fp8_dynamic"}  # AutoFP8's
    return words.get(str(said).lower(), "other")


def _is_float8(said: Any) -> bool:
    if not isinstance(said, Mapping):
        return False
    return (str(said.get("type", "int")).lower(), said.get("num_bits", 8)) == ("float", 8)


def _sides(block: Any) -> tuple[int, int]:
    """[128, 128] or "128x128"; 128 x 128 for what is neither."""
    sides = block.split("x") if isinstance(block, str) else block
    if isinstance(sides, list) and len(sides) == 2:
        rows, columns = (int(s) if str(s).isdecimal() and len(str(s)) < 9 else 0 for s in sides)
        if rows > 0 and columns > 0:
            return rows, columns
    return (128, 128)
