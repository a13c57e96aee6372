"""Values of weights: what is not a number, all zero, or does not fit the scale beside it."""

from __future__ import annotations

from collections.abc import Iterator

from fp8scope.checkpoint.doctor.contents import Contents
from fp8scope.checkpoint.doctor.counting import code_value
from fp8scope.checkpoint.doctor.diagnosis import Fault
from fp8scope.checkpoint.doctor.phrases import are, counted, have, many, verb
from fp8scope.checkpoint.doctor.stored import BYTES, Stored
from fp8scope.checkpoint.linears import FLOAT8

UNUSED_ABOVE = 200.0  # a scale rounded up to a power of two still leaves more than 224 in use
CLIPPED_SHARE = 0.01
CLIPPED_RATIO = 2.0
# their norms multiply by 1 + w
_CENTRED = ("gemma", "qwen3_next", "qwen3_5", "nemotron")
BUILD_AGAIN = "quantize again from the BF16 model, and look at that model's weights"


def weight_faults(contents: Contents) -> Iterator[Fault]:
    """Every fault that shows in the values of tensors that are no scales."""
    yield from _not_finite(contents)
    yield from _zero(contents)
    yield from _codes(contents)
    yield from _formats(contents)


def _not_finite(contents: Contents) -> Iterator[Fault]:
    counts = contents.values.counts
    codes = [
        t.name
        for t in contents.listing.tensors
        if t.dtype == FLOAT8 and t.name in counts and counts[t.name].nan
    ]
    if codes:
        total = sum(counts[name].nan for name in codes)
        what = f"{many(codes, 'FP8 tensor')} {verb(codes, 'holds', 'hold')} "
        what += counted(total, "NaN code")
        yield Fault("fp8-nan", "error", what, BUILD_AGAIN, tuple(codes))
    floats = [
        t.name
        for t in contents.listing.tensors
        if t.dtype != FLOAT8
        and (count := counts.get(t.name)) is not None
        and (count.nan or (count.inf and "mask" not in t.name))
    ]
    if floats:
        what = f"{many(floats, 'tensor')} {verb(floats, 'holds', 'hold')} NaN or infinity"
        yield Fault("tensor-not-finite", "error", what, BUILD_AGAIN, tuple(floats))


def _zero(contents: Contents) -> Iterator[Fault]:
    counts = contents.values.counts
    empty = [
        each.name
        for each in contents.fp8
        if (count := counts.get(each.weight.name)) is not None
        and count.values
        and not (count.largest or count.nan)
    ]
    if empty:
        what = f"{are(empty, 'FP8 weight')} all zero"
        yield Fault("fp8-zero", "error", what, BUILD_AGAIN, tuple(empty))
    if str(contents.text("model_type")).startswith(_CENTRED):
        return
    norms = [
        t.name
        for t in contents.listing.tensors
        if t.name.endswith(".weight")
        and len(t.shape) == 1
        and _is_norm(t.name)
        and (count := counts.get(t.name)) is not None
        and count.values
        and not count.largest
    ]
    if norms:
        what = f"{have(norms, 'norm')} nothing but zeros as weight"
        remedy = "copy the norms from the BF16 model"
        yield Fault("norm-zero", "error", what, remedy, tuple(norms))


def _is_norm(name: str) -> bool:
    last = name.removesuffix(".weight").rpartition(".")[2].lower()
    return "norm" in last or last.startswith("ln_") or last in {"ln", "ln1", "ln2"}


def _codes(contents: Contents) -> Iterator[Fault]:
    clipped = [each.name for each in contents.fp8 if _is_clipped(contents, each)]
    if clipped:
        what = f"{are(clipped, 'FP8 weight')} clipped at 448"
        remedy = "the scale is too small for the weight: quantize again with amax / 448"
        yield Fault("fp8-clipped", "error", what, remedy, tuple(clipped))
    groups: dict[tuple[str, float | str], list[Stored]] = {}
    for each in contents.fp8:  # of those that share a scale, one need not use all of it
        scale = contents.scale(each.scale)
        shared = scale.single if scale is not None else None
        key = (each.module.group, each.name if shared is None else shared)
        groups.setdefault(key, []).append(each)
    unused, highest = [], 0.0
    for members in groups.values():
        largest = [c.largest for m in members if (c := contents.values.counts.get(m.weight.name))]
        if len(largest) == len(members) and 0 < code_value(max(largest)) < UNUSED_ABOVE:
            unused += [member.name for member in members]
            highest = max(highest, code_value(max(largest)))
    if unused:
        what = f"{have(unused, 'FP8 weight')} no code above {highest:g} of 448"
        remedy = "the scale is not that of this weight: quantize again with amax / 448"
        yield Fault("fp8-range-unused", "warning", what, remedy, tuple(unused))


def _is_clipped(contents: Contents, each: Stored) -> bool:
    """More values at 448 than any amax / 448 leaves there.

    Each scale puts one value of its own at 448. Of those beyond that, what rounds to 448 comes
    from half of the width that rounds to 416 and from a thinner part of the distribution, unless
    values were cut off.
    """
    count = contents.values.counts.get(each.weight.name)
    if count is None or not count.values:
        return False
    scales = contents.scale(each.scale)
    beyond = count.top - (scales.values if scales is not None else 1)
    return beyond > max(CLIPPED_SHARE * count.values, CLIPPED_RATIO * count.next)


def _formats(contents: Contents) -> Iterator[Fault]:
    for is_bytes in (False, True):
        odd = [e for e in contents.misread if (e.weight.dtype in BYTES) == is_bytes]
        if odd:
            names = tuple(each.name for each in odd)
            are = verb(names, "is", "are")
            what = f"{many(names, 'weight')} {are} in {odd[0].weight.dtype}, which is not E4M3"
            remedy = (
                "save the codes as F8_E4M3, which the metadata says they are"
                if is_bytes
                else "quantize to E4M3 (e4m3fn): NVIDIA's engines read no other FP8 weights"
            )
            yield Fault("fp8-format", "error", what, remedy, names)
