"""Scales: missing, of another shape or dtype, of nothing, and values that no calibration gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median

from fp8scope.checkpoint.doctor.contents import SCALE_WORDS, Contents, Stored
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import many, some, verb
from fp8scope.checkpoint.doctor.values import ScaleValues
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.linears import scale_names

TAKEN = {"F32", "BF16", "F16", "F8_E8M0"}
TINY = 1e-10  # |W| up to 4e-8: not even a zero row is given that, which gets some epsilon
LARGEST_WEIGHT = 4.0  # |W| of 1,800: an inverted scale is larger for any weight under 100
LARGEST_INPUT = 1000.0  # |x| of 448,000
INVERTED_INPUTS = 2.0  # median over the layers: |x| of 900 in every second of them
APART = 16.0
QUANTIZE_AGAIN = "quantize the weight again from the BF16 model"
CALIBRATE = "calibrate again, and look at what the quantizer says of those layers"


def scale_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of the scales of weights and inputs."""
    for look in (_missing, _shapes, _dtypes, _orphans, _broken, _sizes, _ones, _apart, _smoothing):
        yield from look(contents)


def _missing(contents: Contents) -> Iterator[Fault]:
    bare = [
        each.name
        for each in contents.fp8
        if each.scale is None and not contents.may_be_lost(scale_names(each.weight.name, "weight"))
    ]
    if bare:
        what = f"{many(bare, 'FP8 weight')} without a scale: the codes mean nothing"
        yield Fault("weight-scale-missing", "error", what, QUANTIZE_AGAIN, tuple(bare))
    static = {
        each.name: contents.declared(each).static
        for each in contents.fp8
        if contents.declared(each).weights not in {"bf16", "other"}
    }
    lacking = [
        each.name
        for each in contents.fp8
        if static.get(each.name)
        and each.input_scale is None
        and not contents.may_be_lost(scale_names(each.weight.name, "input"))
    ]
    if lacking:
        what = f"the metadata says static input scales, and {many(lacking, 'linear')}"
        yield Fault(
            "input-scale-missing",
            "error",
            f"{what} {verb(lacking, 'has', 'have')} none",
            "calibrate with text that reaches those layers, or say dynamic",
            tuple(lacking),
        )
    needless = [
        s.input_scale.name
        for s in contents.fp8
        if s.input_scale is not None and static.get(s.name) is False
    ]
    if needless:
        what = f"{many(needless, 'input scale')} beside linears that the metadata says are dynamic"
        remedy = "say static if they are meant: engines do not look at them now"
        yield Fault("input-scale-unexpected", "warning", what, remedy, tuple(needless))


def _shapes(contents: Contents) -> Iterator[Fault]:
    wrong = [
        each.scale.name
        for each in contents.fp8
        if each.scale is not None
        and each.granularity is None
        and not each.fits("block", contents.declared(each).block)
    ]
    if wrong:
        first = contents.tensors[wrong[0]]
        what = f"{many(wrong, 'weight scale')} fit no granularity, the first is {list(first.shape)}"
        remedy = "one scale, one per output channel, or one per block of 128 x 128"
        yield Fault("weight-scale-shape", "error", what, remedy, tuple(wrong))
    vectors = [
        each.input_scale.name
        for each in contents.fp8
        if each.input_scale is not None
        and each.input_scale.shape
        not in {(), (1,), (1, 1), each.weight.shape[:-2], (*each.weight.shape[:-2], 1)}
        and (
            len(each.weight.shape) == 2 or each.input_scale.shape != (*each.weight.shape[:1], 1, 1)
        )
    ]
    if vectors:
        shape = list(contents.tensors[vectors[0]].shape)
        what = (
            f"{many(vectors, 'input scale')} with a value per channel ({shape}), which no engine "
            "reads: SmoothQuant left them"
        )
        remedy = "fold the smoothing into the weights first, then quantize with one input scale"
        yield Fault("input-scale-vector", "error", what, remedy, tuple(vectors))


def _dtypes(contents: Contents) -> Iterator[Fault]:
    odd = [scale.name for scale in _scales(contents) if scale.dtype not in TAKEN]
    if odd:
        what = f"{many(odd, 'scale')} in {contents.tensors[odd[0]].dtype}"
        remedy = "store scales in F32 or BF16"
        yield Fault("scale-dtype", "error", what, remedy, tuple(odd))


def _orphans(contents: Contents) -> Iterator[Fault]:
    owners = {
        name: each
        for each in contents.stored
        for role in ("weight", "input")
        for name in scale_names(each.weight.name, role)
        if name in contents.tensors
    }
    plain = [name for name, each in owners.items() if each.is_plain]
    if plain:
        what = f"{many(plain, 'scale')} beside weights that are in {_dtype(owners[plain[0]])}"
        remedy = "delete the scales, or store those weights in FP8"
        yield Fault("scale-of-bf16", "error", what, remedy, tuple(plain))
    caches = {scale.name for scale in contents.cache_scales}
    lost = [
        name
        for name in contents.tensors
        if name not in owners
        and name.endswith(tuple(f".{word}" for word in SCALE_WORDS[:4]))
        and not contents.may_be_lost(weights := _weights_of(name))
        and contents.tensors.keys().isdisjoint(weights)
        and name not in caches
    ]
    if lost:
        what = f"{many(lost, 'scale')} of no weight that is in the files"
        remedy = "fetch the weights, or delete the scales: engines stop at names they do not know"
        yield Fault("scale-orphan", "error", what, remedy, tuple(lost))


def _weights_of(scale: str) -> tuple[str, ...]:
    owner = scale.rpartition(".")[0]
    return (owner, *(f"{owner}.{word}" for word in ("weight", "weight_packed", "qweight")))


def _dtype(linear: Stored) -> str:
    return linear.weight.dtype


def _broken(contents: Contents) -> Iterator[Fault]:
    cases: tuple[tuple[str, str, Callable[[ScaleValues], int]], ...] = (
        ("scale-nan", "NaN", lambda v: v.nan),
        ("scale-inf", "infinity", lambda v: v.inf),
        ("scale-zero", "zero", lambda v: v.zero),
        ("scale-negative", "negative values", lambda v: v.negative),
    )
    scales = list(_scales(contents))
    for code, word, count in cases:
        bad = [s.name for s in scales if (v := contents.scale(s)) is not None and count(v)]
        if bad:
            what = f"{many(bad, 'scale')} {verb(bad, 'holds', 'hold')} {word}"
            yield Fault(code, "error", what, CALIBRATE, tuple(bad))


def _sizes(contents: Contents) -> Iterator[Fault]:
    scales = list(_scales(contents))
    tiny = [s.name for s in scales if (v := contents.scale(s)) is not None and 0 < v.highest < TINY]
    if tiny:
        what = f"{many(tiny, 'scale')} {verb(tiny, 'is', 'are')} under {TINY:g}"
        remedy = "calibrate again: the layer saw nothing but zeros, or a unit was mistaken"
        yield Fault("scale-tiny", "error", what, remedy, tuple(tiny))
    weights = [each.scale for each in contents.fp8 if each.scale is not None]
    inputs = [each.input_scale for each in contents.fp8 if each.input_scale is not None]
    large = _above(contents, weights, LARGEST_WEIGHT)
    known = [value for s in inputs if (value := _single(contents, s)) is not None]
    if len(known) > 1 and median(known) > INVERTED_INPUTS:
        large += _above(contents, inputs, INVERTED_INPUTS)
    else:
        large += _above(contents, inputs, LARGEST_INPUT)
    if large:
        value = contents.values.scales[large[0]].highest
        what = f"{many(large, 'scale')} far too large ({value:.4g} in the first)"
        remedy = "a scale is amax / 448, and not its inverse"
        yield Fault("scale-huge", "error", what, remedy, tuple(large))


def _above(contents: Contents, scales: Iterable[TensorEntry], limit: float) -> list[str]:
    return [s.name for s in scales if (v := contents.scale(s)) is not None and v.highest > limit]


def _ones(contents: Contents) -> Iterator[Fault]:
    weights = [each.scale for each in contents.fp8 if each.scale is not None]
    inputs = [each.input_scale for each in contents.fp8 if each.input_scale is not None]
    found = [s.name for s in weights if _all_ones(contents, s)]
    ones = [s.name for s in inputs if _all_ones(contents, s)]
    if len(ones) > 1 or (ones and len(inputs) == 1):
        found += ones
        ones = []
    if found:
        what = f"{many(found, 'scale')} of exactly 1: never calibrated"
        yield Fault("scale-unity", "error", what, CALIBRATE, tuple(found))
    if ones:
        what = f"the input scale {ones[0]} is exactly 1, as if it were never calibrated"
        yield Fault("input-scale-unity", "warning", what, CALIBRATE, tuple(ones))


def _all_ones(contents: Contents, scale: TensorEntry) -> bool:
    values = contents.scale(scale)
    return values is not None and 0 < values.values == values.ones


def _apart(contents: Contents) -> Iterator[Fault]:
    """Static scales that engines replace by the largest of a fused layer."""
    groups: dict[str, list[Stored]] = {}
    for each in contents.fp8:
        if each.module.kind == "linear" and each.name != each.module.group:
            groups.setdefault(each.module.group, []).append(each)
    inputs, weights = [], []
    for members in groups.values():
        known = [v for m in members if (v := _single(contents, m.input_scale)) is not None]
        if known and min(known) > 0 and max(known) > min(known) * (1 + 1e-3):
            inputs += [m.name for m in members]
        known = [
            v for m in members if m.fits("tensor") and (v := _single(contents, m.scale)) is not None
        ]
        if known and min(known) > 0 and max(known) > APART * min(known):
            weights += [m.name for m in members]
    if inputs:
        what = f"{some(inputs)} read the same input, and their input scales differ"
        remedy = "give the shards of a fused layer one scale: engines take the largest"
        yield Fault("input-scales-differ", "warning", what, remedy, tuple(inputs))
    if weights:
        what = f"{some(weights)} are fused, and their weight scales are over {APART:g}x apart"
        remedy = "quantize the group with one scale, or per channel: engines requantize to the max"
        yield Fault("weight-scales-apart", "warning", what, remedy, tuple(weights))


def _smoothing(contents: Contents) -> Iterator[Fault]:
    found = [name for name in contents.tensors if name.endswith(".pre_quant_scale")]
    if found and contents.fp8:
        what = f"{many(found, 'tensor')} of smoothing factors, which no FP8 engine applies"
        remedy = "fold them into the weights, then quantize"
        yield Fault("pre-quant-scale", "error", what, remedy, tuple(found))


def _single(contents: Contents, scale: TensorEntry | None) -> float | None:
    values = contents.scale(scale)
    return values.single if values is not None else None


def _scales(contents: Contents) -> Iterator[TensorEntry]:
    """Those of FP8 weights and of their inputs."""
    for each in contents.fp8:
        yield from (scale for scale in (each.scale, each.input_scale) if scale is not None)
