"""The values of scales: those that no calibration gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.counting import ScaleValues
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are, many, some, verb
from fp8scope.checkpoint.doctor.stored import Stored
from fp8scope.checkpoint.header import TensorEntry
from fp8scope.core.formats import E4M3

TINY = 1e-10  # |W| up to 4e-8: not even a zero row is given that, which gets some epsilon


class _Sizes(NamedTuple):
    """Scales that are usual, and those that are possible: planted or learnt, single rows reach
    thousands, and massive activations hundreds of thousands.
    """

    usual: float
    largest: float


WEIGHTS = _Sizes(4.0, 100.0)  # |W| of 1,800 and 45,000: one of amax 4 that is inverted is above
INPUTS = _Sizes(2.0, 1000.0)  # |x| of 900 and 448,000
APART = 16.0
QUANTIZE_AGAIN = "quantize the weight again from the BF16 model"
CALIBRATE = "calibrate again, and look at what the quantizer says of those layers"


def amount_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault of the values of weight and input scales."""
    for look in (_broken, _sizes, _ones, _apart):
        yield from look(contents)


def _broken(contents: Contents) -> Iterator[Fault]:
    cases: tuple[tuple[str, str, Callable[[ScaleValues], int]], ...] = (
        ("scale-nan", "NaN", lambda v: v.nan),
        ("scale-inf", "infinity", lambda v: v.inf),
        ("scale-zero", "zero", lambda v: v.zero),
        ("scale-negative", "negative values", lambda v: v.negative),
    )
    scales = list(_scales(contents))
    weights = {each.scale.name for each in contents.fp8 if each.scale is not None}
    for code, word, count in cases:
        bad = [s.name for s in scales if (v := contents.scale(s)) is not None and count(v)]
        if bad:
            what = f"{many(bad, 'scale')} {verb(bad, 'holds', 'hold')} {word}"
            remedy = QUANTIZE_AGAIN if weights.issuperset(bad) else CALIBRATE
            yield Fault(code, "error", what, remedy, tuple(bad))


def _sizes(contents: Contents) -> Iterator[Fault]:
    scales = list(_scales(contents))
    tiny = [s.name for s in scales if (v := contents.scale(s)) is not None and 0 < v.highest < TINY]
    if tiny:
        what = f"{are(tiny, 'scale')} under {TINY:g}"
        remedy = "calibrate again: the layer saw nothing but zeros, or a unit was mistaken"
        yield Fault("scale-tiny", "error", what, remedy, tuple(tiny))
    weights = [each.scale for each in contents.fp8 if each.scale is not None]
    inputs = [each.input_scale for each in contents.fp8 if each.input_scale is not None]
    impossible = _above(contents, weights, _limit(contents, weights, WEIGHTS))
    impossible += _above(contents, inputs, _limit(contents, inputs, INPUTS))
    if impossible:
        value = contents.values.scales[impossible[0]].highest
        what = f"{are(impossible, 'scale')} far too large (the first is {value:.4g})"
        remedy = "a scale is amax / 448, and not its inverse"
        yield Fault("scale-huge", "error", what, remedy, tuple(impossible))
    large = [name for name in _above(contents, weights, WEIGHTS.usual) if name not in impossible]
    if large:
        value = contents.values.scales[large[0]].highest
        what = f"{are(large, 'scale')} unusually large (the first is {value:.4g}: |W| up to "
        what += f"{E4M3.max * value:,.0f})"
        remedy = "all but the largest of those weights lose their bits: fp8scope scan says how much"
        yield Fault("scale-large", "warning", what, remedy, tuple(large))


def _limit(contents: Contents, scales: Sequence[TensorEntry], known: _Sizes) -> float:
    """What no scale is above: where every second layer is above the usual, all are inverted."""
    values = [value for s in scales if (value := _single(contents, s)) is not None]
    return known.usual if len(values) > 1 and median(values) > known.usual else known.largest


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
        what = f"{are(found, 'scale')} exactly 1: never calibrated"
        remedy = CALIBRATE if found[-1] in {s.name for s in inputs} else QUANTIZE_AGAIN
        yield Fault("scale-unity", "error", what, remedy, tuple(found))
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


def _single(contents: Contents, scale: TensorEntry | None) -> float | None:
    values = contents.scale(scale)
    return values.single if values is not None else None


def _scales(contents: Contents) -> Iterator[TensorEntry]:
    """Those of FP8 weights and of their inputs."""
    for each in contents.fp8:
        yield from (scale for scale in (each.scale, each.input_scale) if scale is not None)
