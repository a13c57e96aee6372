"""Every code that a fault may have, how bad it is, and what it means in a line.

docs/reference/checkpoint.md shows this table; a test holds them in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Severity = Literal["error", "warning"]
_ERROR: tuple[Severity, ...] = ("error",)
_WARNING: tuple[Severity, ...] = ("warning",)
_EITHER: tuple[Severity, ...] = ("error", "warning")

FILES: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    "weights-missing": (_ERROR, "no safetensors that a loader would find"),
    "file-unreadable": (_ERROR, "the system does not give the file"),
    "file-truncated": (_ERROR, "a file ends before its header says: a download that broke off"),
    "file-trailing": (_ERROR, "a file is longer than its header says"),
    "header-unreadable": (_ERROR, "not a safetensors file: a Git LFS pointer, a web page"),
    "header-offsets": (_ERROR, "byte ranges that overlap, leave holes or do not fit a shape"),
    "index-unreadable": (_ERROR, "model.safetensors.index.json is no index"),
    "index-not-in-shard": (_ERROR, "the index says that a shard holds what it does not"),
    "index-incomplete": (_ERROR, "shards hold tensors that the index does not name"),
    "shard-missing": (_ERROR, "a file that the index names is not there"),
    "tensor-duplicate": (_ERROR, "a tensor lies in two shards"),
    "weights-twice": (
        _ERROR,
        "a single file beside an index of shards: engines load one or the other",
    ),
    "weights-stray": (_WARNING, "a safetensors file that belongs to nothing"),
    "files-changed": (_ERROR, "somebody wrote the files while they were read"),
    "tensor-unread": (_ERROR, "the disk did not give a tensor's bytes"),
    "tokenizer-missing": (_WARNING, "no tokenizer lies beside the weights"),
    "layers-missing": (_ERROR, "fewer layers than num_hidden_layers"),
    "experts-missing": (_ERROR, "fewer experts than config.json says"),
    "linear-missing": (_ERROR, "half of a fused layer, or what all layers of the kind have"),
}
METADATA: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    "config-missing": (_ERROR, "there is no config.json"),
    "config-unreadable": (_ERROR, "config.json is no JSON object, or may not be read"),
    "tensor-prefix": (
        _WARNING,
        "layers of a well-known text model that are not under model.layers",
    ),
    "config-shape": (
        _ERROR,
        "a size in config.json that the tensors of a well-known text model lack",
    ),
    "metadata-missing": (
        _ERROR,
        "weights are FP8 and nothing says so: engines load codes as numbers",
    ),
    "metadata-unreadable": (_ERROR, "hf_quant_config.json is no JSON object, or may not be read"),
    "metadata-malformed": (
        _ERROR,
        "a list that is none, a broken regular expression, an empty group",
    ),
    "metadata-one-file": (_WARNING, "ModelOpt's metadata in one of its two places alone"),
    "metadata-disagree": (_ERROR, "config.json and hf_quant_config.json say different things"),
    "quant-method-unknown": (
        _EITHER,
        "a quant_method that no engine knows, or not that of the keys; "
        "a warning if it is read elsewhere",
    ),
    "quant-algo-unknown": (_ERROR, "a quant_algo that no engine knows"),
    "format-not-fp8": (_ERROR, "the format of other weights, as pack-quantized, is said of FP8"),
    "fp8-absent": (_ERROR, "the metadata say FP8 and every weight is BF16"),
    "bf16-not-ignored": (_ERROR, "a BF16 linear is on no list: engines load it as FP8"),
    "bf16-unlisted": (_WARNING, "the same of a linear that engines often leave alone"),
    "fp8-ignored": (_ERROR, "an FP8 linear is on the list, or is no target: codes load as numbers"),
    "list-prefix": (_ERROR, "entries miss their BF16 linears by a prefix (model.language_model.)"),
    "list-entry-dead": (_WARNING, "an entry of a list matches nothing"),
    "scheme-differs": (_ERROR, "stored per channel and said to be per tensor, or the like"),
}
LINEARS: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    "fused-split": (_ERROR, "shards of one fused layer (q, k, v; gate, up) are not stored alike"),
    "experts-split": (_ERROR, "experts of one layer are not stored alike"),
    "router-quantized": (_ERROR, "a router in FP8, which engines build in BF16"),
    "head-quantized": (_ERROR, "an output layer in FP8 under fp8 or fbgemm_fp8"),
    "norm-quantized": (_ERROR, "a norm or a bias in FP8"),
    "embedding-quantized": (_ERROR, "an embedding in FP8"),
    "sides-unaligned": (_WARNING, "a side that is no multiple of 16"),
    "blocks-unaligned": (_WARNING, "a block is cut where vLLM wants it whole: it refuses to load"),
    "fp8-format": (_ERROR, "codes in E5M2, fnuz, or saved as bytes"),
    "fp8-nan": (_ERROR, "NaN among the codes"),
    "fp8-zero": (_ERROR, "an FP8 weight of nothing but zeros"),
    "fp8-clipped": (_ERROR, "over 1% of the codes at 448, and twice as many as at 416"),
    "fp8-range-unused": (_WARNING, "no code above 200 of 448: the scale is not this weight's"),
    "norm-zero": (_ERROR, "a norm of nothing but zeros, where it does not multiply by 1 + w"),
    "tensor-not-finite": (_ERROR, "NaN or infinity in a tensor that is not FP8"),
}
SCALES: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    "weight-scale-missing": (_ERROR, "an FP8 weight without a scale"),
    "weight-scale-shape": (
        _ERROR,
        "a scale of a shape that no granularity has, or that readers refuse",
    ),
    "input-scale-missing": (_ERROR, "static by the metadata, and no input scale"),
    "input-scale-unexpected": (_WARNING, "an input scale where the metadata say dynamic"),
    "input-scale-vector": (_ERROR, "an input scale per channel: smoothing that was not folded"),
    "pre-quant-scale": (_ERROR, "smoothing factors of AWQ, which no FP8 engine applies"),
    "scale-name": (_ERROR, "weight_scale where readers look for weight_scale_inv, or the reverse"),
    "scale-dtype": (_ERROR, "a scale in a dtype that is none for scales"),
    "scale-of-bf16": (_ERROR, "a scale beside a weight that is no code"),
    "scale-orphan": (_ERROR, "a scale of no weight"),
    "scale-nan": (_ERROR, "NaN in a scale"),
    "scale-inf": (_ERROR, "infinity in a scale"),
    "scale-zero": (_ERROR, "a scale of zero"),
    "scale-negative": (_ERROR, "a scale below zero"),
    "scale-tiny": (_ERROR, "a scale under 1e-10"),
    "scale-huge": (_ERROR, "a scale as large as its inverse would be"),
    "scale-large": (_WARNING, "a weight scale above 4: weights of 1,800 and more"),
    "scale-unity": (_ERROR, "scales of exactly 1: never calibrated"),
    "input-scale-unity": (_WARNING, "one input scale of exactly 1"),
    "input-scales-differ": (_WARNING, "shards that read the same input have other scales for it"),
    "weight-scales-apart": (_WARNING, "shards whose scales engines unify are over 16 times apart"),
    "kv-scale-invalid": (_ERROR, "a KV scale that is NaN, infinite, zero or negative"),
    "kv-scale-huge": (_ERROR, "a KV scale above 50"),
    "kv-scale-unity": (_WARNING, "KV scales of exactly 1: never calibrated"),
    "kv-half": (_ERROR, "a scale of keys without one of values, or the reverse"),
    "kv-scales-missing": (_WARNING, "an FP8 KV cache by the metadata, and no scales for it"),
    "kv-scales-incomplete": (_ERROR, "KV scales in some layers and not in others"),
    "kv-undeclared": (_WARNING, "KV scales, and metadata that say nothing of an FP8 KV cache"),
}
PLAN: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    "plan-unreadable": (_ERROR, "plan.json is damaged, or of a version that is not read"),
    "plan-factors": (_ERROR, "plan.npz is missing, damaged or another's"),
    "plan-other-model": (_ERROR, "plan.json is of another architecture"),
    "plan-prefix": (_ERROR, "names of the files and of the plan differ by a prefix alone"),
    "plan-linears-missing": (_ERROR, "a linear of the plan is not in the files"),
    "plan-linears-extra": (_ERROR, "a linear of the files is not in the plan"),
    "plan-not-realized": (_ERROR, "a linear is stored otherwise than planned"),
    "plan-input-scales": (_ERROR, "an input scale is not the planned one"),
    "plan-kv-cache": (_ERROR, "the KV cache of a layer is not in the planned precision"),
    "plan-kv-scales": (_ERROR, "a KV scale is not the planned one"),
}
GROUPS = {
    "Files": FILES,
    "Metadata and lists": METADATA,
    "Linears": LINEARS,
    "Scales": SCALES,
    "The plan beside it": PLAN,
}
CODES = {code: of for group in GROUPS.values() for code, of in group.items()}
