"""In which format a kernel multiplied: what its counters, its name and its operands tell."""

from __future__ import annotations

from fp8scope.traces.kernel_names import kind_of
from fp8scope.traces.kernel_patterns import Precision
from fp8scope.traces.trace import Counter, Kernel

COUNTED: dict[Counter, Precision] = {"fp8_ops": "fp8", "bf16_ops": "bf16", "fp16_ops": "fp16"}
SMALL = 0.01
"""Share of a kernel's operations under which a second format is left out of the account."""
_DTYPES: dict[str, Precision] = {
    "bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int8": "int8",
    "float4_e2m1fn_x2": "fp4",
}  # fmt: skip
_NARROW: tuple[Precision, ...] = ("fp4", "fp8", "int8")
_ORDER: tuple[Precision, ...] = (*_NARROW, "bf16", "fp16", "fp32")


def precision_of(kernel: Kernel) -> tuple[Precision, str]:
    """The format of most of its operations, and by what it is known, in words.

    Counters of the Tensor Cores' operations come first, then the name, then the operands' dtypes.
    What none of them tells is unknown. A name that says nothing but that weights are widened
    (Marlin) leaves the format to the operands.
    """
    return _by_counters(kernel) or _by_name(kernel) or _by_operands(kernel) or ("unknown", "")


def _by_counters(kernel: Kernel) -> tuple[Precision, str] | None:
    counted = {p: kernel.counters.get(counter, 0.0) for counter, p in COUNTED.items()}
    total = sum(counted.values())
    if not total:
        # no counter at all, none of these formats, or no Tensor Cores: the others have to tell
        return None
    found = sorted((p for p in counted if counted[p] > SMALL * total), key=lambda p: -counted[p])
    if len(found) == 1:
        return found[0], f"counters: {counted[found[0]]:.3g} operations in {found[0].upper()}"
    shares = " and ".join(f"{counted[p] / total:.0%} in {p.upper()}" for p in found)
    return found[0], f"counters: {shares}"


def _by_name(kernel: Kernel) -> tuple[Precision, str] | None:
    kind = kind_of(kernel.name)
    if kind.precision == "unknown":
        return None
    return kind.precision, "name: weights widened in the kernel" if kind.weight_only else "name"


def _by_operands(kernel: Kernel) -> tuple[Precision, str] | None:
    """Of the two that are multiplied; scales and a bias stand beside them, in wider formats.

    The operator of an expert layer takes two weights and says nothing of the kernels within.
    """
    kind = kind_of(kernel.name)
    if kind.role not in {"gemm", "attention"} or "moe" in kernel.name.lower():
        return None
    formats = [_format(dtype) for dtype in kernel.operands]
    narrow = {precision for precision in formats if precision in _NARROW}
    twice = [precision for precision in _ORDER if formats.count(precision) > 1]
    widened = [precision for precision in _ORDER[len(_NARROW) :] if precision in formats]
    shown = ", ".join(kernel.operands)
    if twice and (twice[0] in _NARROW or not narrow):
        return twice[0], f"operands: {shown}"
    if narrow and widened:  # one narrow operand only: it is widened on the way
        return widened[0], f"operands: {shown}"
    return None


def _format(dtype: str) -> Precision:
    return (
        "fp8" if dtype.startswith(("float8_e4m3", "float8_e5m2")) else _DTYPES.get(dtype, "unknown")
    )
