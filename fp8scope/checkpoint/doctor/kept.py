"""What engines never run in FP8, whatever the metadata says, and what their GEMMs cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are, have, many, verb
from fp8scope.checkpoint.doctor.stored import FLOATS8, Stored

SIDE = 16
_EARLY = {"q_proj", "k_proj", "gate_proj", "w1"}  # shards of a fused layer, but for the last
_NORM = re.compile(r"(^|[._])(norm|layernorm|ln)[^.]*\.(weight|bias)$|norm\.(weight|bias)$")


def kept_faults(contents: Contents) -> Iterator[Fault]:
    """Routers, output layers, norms and embeddings in FP8, and sides that no GEMM likes."""
    yield from _linears(contents)
    yield from _others(contents)
    odd = [
        each.name
        for each in contents.fp8
        if each.module.out_features % SIDE or each.module.in_features % SIDE
    ]
    if odd:
        what = f"{have(odd, 'FP8 linear')} a side that is no multiple of {SIDE}"
        remedy = "keep them in BF16: FP8 GEMMs pad them or refuse"
        yield Fault("sides-unaligned", "warning", what, remedy, tuple(odd))
    odd = [each.name for each in contents.fp8 if _is_cut(contents, each)]
    if odd:
        what = f"{have(odd, 'FP8 linear')} a side that cuts a block, where vLLM wants it whole"
        remedy = "quantize them per token, or keep them in BF16; other engines may load them"
        yield Fault("blocks-unaligned", "warning", what, remedy, tuple(odd))


def _is_cut(contents: Contents, linear: Stored) -> bool:
    """Of a fused layer the last shard alone may end within a block; under ModelOpt's metadata the
    input of none.
    """
    if contents.granularity(linear) != "block" or contents.declaration is None:
        return False
    rows, columns = contents.declared(linear).block
    if contents.declaration.form == "modelopt" and linear.module.in_features % columns:
        return True
    is_early = linear.name.rpartition(".")[2] in _EARLY
    return is_early and linear.module.out_features % rows != 0


def _linears(contents: Contents) -> Iterator[Fault]:
    routers = [s.name for s in contents.stored if s.module.kind == "router" and not s.is_plain]
    if routers:
        what = f"{are(routers, 'router')} quantized"
        remedy = "keep routers in BF16: engines build them so"
        yield Fault("router-quantized", "error", what, remedy, tuple(routers))
    said = contents.declaration
    heads = [
        each.name
        for each in contents.fp8
        if each.module.kind == "lm_head" and contents.declared(each).weights != "bf16"
    ]
    if heads and said is not None and said.form in {"fp8", "fbgemm_fp8"}:
        what = f"the output layer {heads[0]} is in FP8, which readers of {said.form} never run"
        remedy = "keep it in BF16: engines load its codes as numbers"
        yield Fault("head-quantized", "error", what, remedy, tuple(heads))


def _others(contents: Contents) -> Iterator[Fault]:
    linear = {each.weight.name for each in contents.stored}
    floats = [
        t
        for t in contents.listing.tensors
        if t.dtype in FLOATS8
        and t.name not in linear
        and t.name not in contents.values.scales
        and t.name.endswith((".weight", ".bias"))
    ]
    norms = [t.name for t in floats if len(t.shape) == 1 or _NORM.search(t.name)]
    if norms:
        what = f"{many(norms, 'weight')} of norms or biases {verb(norms, 'is', 'are')} in FP8"
        yield Fault("norm-quantized", "error", what, "keep norms and biases in BF16", tuple(norms))
    embeddings = [t.name for t in floats if t.name not in norms]
    if embeddings:
        what = f"{are(embeddings, 'embedding')} in FP8"
        remedy = "keep embeddings in BF16: engines look their rows up without a scale"
        yield Fault("embedding-quantized", "error", what, remedy, tuple(embeddings))
