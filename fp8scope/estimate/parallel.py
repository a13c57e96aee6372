"""Tensor parallelism: the share of a model that one of several GPUs holds.

As Megatron-LM splits it (Shoeybi et al., arXiv 1909.08053): queries, keys, values, gate and up by
their outputs, the projections that follow by their inputs, the embedding and lm_head by the
vocabulary; norms and routers are on every GPU. KV heads are split while there are enough of them,
and repeated beyond that, as vLLM and TensorRT-LLM do; the one vector of MLA is on every GPU, and so
are the matmuls that make it.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from fp8scope.core.roofline import GemmShape
from fp8scope.errors import BadInput
from fp8scope.estimate.geometry import LATENT, QKV
from fp8scope.estimate.served import Attention, Gemm, Served

MOST = 64
"""The most GPUs that `choices` looks at: a rack."""
_BY_INPUTS = frozenset({"o_proj", "out_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj"})
_BY_INPUTS |= {"fc2", "wo", "w2"}
_WHOLE = LATENT | {"q_a_proj", "fused_qkv_a_proj_with_mqa"}


def check(served: Served, tp: int) -> None:
    """Raises BadInput unless the heads can be shared by `tp` GPUs."""
    if tp < 1:
        raise BadInput(f"tp is {tp}", "give a whole number above 0")
    if tp == 1:
        return
    if not served.heads:
        what = f"a plan does not hold the heads of {served.name}, which --tp {tp} splits"
        raise BadInput(what, "give the model that it was made for with --model")
    if served.heads % tp:
        what = f"--tp {tp} does not divide the {served.heads} attention heads of {served.name}"
        raise BadInput(what, f"one of {', '.join(map(str, choices(served)))}")
    if served.kv_heads % tp and tp % served.kv_heads:
        what = f"--tp {tp} neither divides the {served.kv_heads} KV heads of {served.name}"
        raise BadInput(
            f"{what} nor is a multiple of them", f"one of {', '.join(map(str, choices(served)))}"
        )


def choices(served: Served) -> list[int]:
    """Every number of GPUs that can share the heads."""
    if not served.heads:
        return [1]
    kv = served.kv_heads
    return [
        tp
        for tp in range(1, min(served.heads, MOST) + 1)
        if served.heads % tp == 0 and (kv % tp == 0 or tp % kv == 0)
    ]


def share(served: Served, tp: int) -> Served:
    """What one of `tp` GPUs holds. Raises as `check`."""
    check(served, tp)
    if tp == 1:
        return served
    return replace(
        served,
        gemms=tuple(_gemm(gemm, served, tp) for gemm in served.gemms),
        attention=tuple(_attention(layer, tp) for layer in served.attention),
        embedding=ceil(served.embedding / tp),
    )


def _gemm(gemm: Gemm, served: Served, tp: int) -> Gemm:
    last, shape = gemm.name.rpartition(".")[2], gemm.shape
    if gemm.kind == "router" or last in _WHOLE:
        return gemm
    if last in _BY_INPUTS:
        return replace(
            gemm, shape=_resized(shape, ceil(shape.in_features / tp), shape.out_features)
        )
    part = 1 / tp
    if last in QKV and not served.is_latent:
        query, kv = served.heads, served.kv_heads
        part = (query / tp + 2 * max(1, kv / tp)) / (query + 2 * kv)
    return replace(gemm, shape=_resized(shape, shape.in_features, ceil(shape.out_features * part)))


def _resized(shape: GemmShape, inputs: int, outputs: int) -> GemmShape:
    return replace(shape, in_features=inputs, out_features=outputs)


def _attention(layer: Attention, tp: int) -> Attention:
    return replace(layer, heads=layer.heads // tp, kv_heads=max(1, layer.kv_heads // tp))
