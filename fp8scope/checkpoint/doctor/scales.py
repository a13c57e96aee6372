"""Scales as tensors: missing, beside nothing, of another name, shape or dtype."""

from __future__ import annotations

from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are, have, many, verb
from fp8scope.checkpoint.doctor.scale_names import BESIDE
from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.checkpoint.linears import fits, scale_names

TAKEN = {"F32", "BF16", "F16", "F8_E8M0"}
QUANTIZE_AGAIN = "quantize the weight again from the BF16 model"


def scale_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of the scales of weights and inputs but for their values."""
    for look in (_missing, _inputs, _names, _shapes, _vectors, _dtypes, _halves, _orphans):
        yield from look(contents)


def _missing(contents: Contents) -> Iterator[Fault]:
    bare = [
        each.name
        for each in contents.fp8
        if each.scale is None and not contents.may_be_lost(scale_names(each.weight.name, "weight"))
    ]
    if bare:
        what = f"{have(bare, 'FP8 weight')} no scale: codes alone mean nothing"
        yield Fault("weight-scale-missing", "error", what, QUANTIZE_AGAIN, tuple(bare))


def _inputs(contents: Contents) -> Iterator[Fault]:
    said = [
        (each, scheme.static)
        for each in contents.fp8
        if (scheme := contents.declared(each)).granularity is not None
    ]
    lacking = [
        each.name
        for each, static in said
        if static
        and each.input_scale is None
        and not contents.may_be_lost(scale_names(each.weight.name, "input"))
    ]
    if lacking:
        have = verb(lacking, "has", "have")
        what = f"the metadata says static input scales, and {many(lacking, 'linear')} {have} none"
        remedy = "calibrate with text that reaches those layers, or say dynamic"
        yield Fault("input-scale-missing", "error", what, remedy, tuple(lacking))
    needless = [each.input_scale.name for each, static in said if each.input_scale and not static]
    if needless:
        what = f"{are(needless, 'input scale')} beside linears that the metadata says are dynamic"
        remedy = "say static if they are meant: engines do not look at them now"
        yield Fault("input-scale-unexpected", "warning", what, remedy, tuple(needless))


def _names(contents: Contents) -> Iterator[Fault]:
    """What a format calls its scales; fp8 per tensor goes by either name."""
    said = contents.declaration
    if said is None:
        return
    odd: dict[tuple[str, str], list[str]] = {}
    for each in contents.fp8:
        if each.is_stacked:
            continue
        if said.form == "fp8" and contents.declared(each).weights == "block":
            wanted = {"weight_scale": "weight_scale_inv"}
        elif said.form in {"modelopt", "compressed-tensors", "fbgemm_fp8"}:
            wanted = {"weight_scale_inv": "weight_scale", "activation_scale": "input_scale"}
        else:
            continue
        for scale in (each.scale, each.input_scale):
            word = scale.name.rpartition(".")[2] if scale is not None else ""
            if scale is not None and word in wanted:
                odd.setdefault((word, wanted[word]), []).append(scale.name)
    for (word, wanted_word), names in odd.items():
        what = f"{are(names, 'scale')} called {word}, and readers of"
        what = f"{what} {said.form} look for {wanted_word}"
        remedy = f"rename to {wanted_word}: the values are meant alike"
        yield Fault("scale-name", "error", what, remedy, tuple(names))


def _shapes(contents: Contents) -> Iterator[Fault]:
    lost = [each for each in contents.misshapen if each.granularity is None]
    if lost:
        names = [each.scale.name for each in lost if each.scale]
        what = f"{many(names, 'weight scale')} {verb(names, 'fits', 'fit')} no granularity: "
        remedy = "one scale, one per output channel, or one per block of 128 x 128"
        what += _beside(lost[0])
        yield Fault("weight-scale-shape", "error", what, remedy, tuple(names))
    others = [each for each in contents.misshapen if each.granularity is not None]
    if others and (said := contents.declaration) is not None:
        names = [each.scale.name for each in others if each.scale]
        room = " or ".join(str(list(shape)) for shape in contents.room(others[0]))
        have = verb(names, "has", "have")
        what = f"{many(names, 'weight scale')} {have} a shape that readers of {said.form} refuse: "
        what += _beside(others[0])
        remedy = f"store {verb(names, 'it', 'them')} as {said.form} has it, here {room}"
        yield Fault("weight-scale-shape", "error", what, remedy, tuple(names))


def _beside(linear: Stored) -> str:
    shape = list(linear.scale.shape) if linear.scale is not None else []
    return f"{shape} of a weight {list(linear.weight.shape)}"


def _vectors(contents: Contents) -> Iterator[Fault]:
    vectors = [
        each.input_scale.name
        for each in contents.fp8
        if each.input_scale is not None
        and not fits(each.input_scale.shape, each.weight.shape, "tensor")
    ]
    if vectors:
        shape = list(contents.tensors[vectors[0]].shape)
        what = (
            f"{have(vectors, 'input scale')} a value per channel "
            f"({shape}), which no engine reads: SmoothQuant leaves such"
        )
        remedy = "fold the smoothing into the weights first, then quantize with one input scale"
        yield Fault("input-scale-vector", "error", what, remedy, tuple(vectors))
    smoothing = [name for name in contents.tensors if name.endswith(".pre_quant_scale")]
    if smoothing and contents.fp8:
        what = f"{are(smoothing, 'tensor')} of smoothing factors, which no FP8 engine applies"
        remedy = "fold them into the weights, then quantize"
        yield Fault("pre-quant-scale", "error", what, remedy, tuple(smoothing))


def _dtypes(contents: Contents) -> Iterator[Fault]:
    scales = (scale for each in contents.judged for scale in (each.scale, each.input_scale))
    odd = [scale for scale in scales if scale is not None and scale.dtype not in TAKEN]
    if odd:
        names = tuple(scale.name for scale in odd)
        what = f"{are(names, 'scale')} in {odd[0].dtype}"
        yield Fault("scale-dtype", "error", what, "store scales in F32 or BF16", names)


def _halves(contents: Contents) -> Iterator[Fault]:
    """Scales whose weight is no code."""
    plain = [
        (each, scale.name)
        for each in contents.stored
        if each.is_plain
        for scale in (each.scale, each.input_scale)
        if scale is not None
    ]
    if not plain:
        return
    linear, names = plain[0][0], tuple(name for _, name in plain)
    what = f"{are(names, 'scale')} beside a weight in {linear.weight.dtype}"
    is_said = contents.declared(linear).granularity is not None
    remedy = (
        "store those weights in FP8, as the metadata says, or list them and delete the scales"
        if is_said
        else "delete the scales, or store those weights in FP8"
    )
    yield Fault("scale-of-bf16", "error", what, remedy, names)


def _orphans(contents: Contents) -> Iterator[Fault]:
    owned = {
        name
        for each in contents.stored
        for role in ("weight", "input")
        for name in scale_names(each.weight.name, role)
    }
    owned |= {scale.name for scale in contents.cache_scales}
    lost = [
        name
        for name in contents.tensors
        if name.endswith(tuple(f".{word}" for word in BESIDE))
        and name not in owned
        and not contents.may_be_lost(weights := _weights_of(name))
        and contents.tensors.keys().isdisjoint(weights)
    ]
    if lost:
        what = f"{are(lost, 'scale')} of no weight that is in the files"
        remedy = "fetch the weights, or delete the scales: engines stop at names they do not know"
        yield Fault("scale-orphan", "error", what, remedy, tuple(lost))


def _weights_of(scale: str) -> tuple[str, ...]:
    owner = scale.rpartition(".")[0]
    return (owner, *(f"{owner}.{word}" for word in ("weight", "weight_packed", "qweight")))
