"""What a kernel does, as far as its name tells: its role, and the format of its operands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from fp8scope.traces.kernel_patterns import PATTERNS, TYPES, Pattern, Precision, Role


@dataclass(frozen=True)
class KernelKind:
    """`precision` of a GEMM's operands; of attention those of Q and K; of a quantizing kernel the
    format that it writes. `weight_only`: the weights are narrower than what is multiplied.
    """

    role: Role
    precision: Precision
    weight_only: bool = False


OTHER = KernelKind("other", "unknown")
LONGEST = 10_000
"""Characters of a name that are read; templates name their operands long before."""
_COMPILED = tuple((re.compile(pattern.regex, re.IGNORECASE), pattern) for pattern in PATTERNS)


@lru_cache(maxsize=4096)
def kind_of(name: str) -> KernelKind:
    """The kind that the first fitting pattern gives; what no pattern fits is other, unknown."""
    start = name[:LONGEST]
    for compiled, pattern in _COMPILED:
        if match := compiled.search(start):
            return _read(pattern, match)
    return OTHER


def _read(pattern: Pattern, match: re.Match[str]) -> KernelKind:
    if pattern.precision:
        return KernelKind(pattern.role, pattern.precision, pattern.weight_only)
    found = match.groupdict()
    if found.get("vllm"):
        return KernelKind(pattern.role, scalar_type(int(found["vllm"])), pattern.weight_only)
    formats = {TYPES.get(found[group].lower(), "unknown") for group in "ab" if found.get(group)}
    wide = formats - {"fp8", "int8", "fp4"}
    if len(formats) == 1:
        return KernelKind(pattern.role, formats.pop(), pattern.weight_only)
    if len(wide) == 1 and "unknown" not in wide:  # the narrow operand is widened on the way
        return KernelKind(pattern.role, wide.pop(), weight_only=True)
    # FP8 with FP4 runs on the path of FP8; of other pairs nothing is known
    both = KernelKind(pattern.role, "fp8", pattern.weight_only)
    return both if formats == {"fp8", "fp4"} else KernelKind(pattern.role, "unknown")


def scalar_type(number: int) -> Precision:
    """Of vLLM's `ScalarType` as an integer: exponent bits in the lowest byte, mantissa bits in the
    next, then the sign (csrc/core/scalar_type.hpp). Weights' types, without sign, are unknown.
    """
    exponent, mantissa, signed = number & 0xFF, number >> 8 & 0xFF, number >> 16 & 1
    known: dict[tuple[int, int], Precision] = {
        (8, 7): "bf16", (5, 10): "fp16", (4, 3): "fp8", (5, 2): "fp8", (0, 7): "int8",
    }  # fmt: skip
    return known.get((exponent, mantissa), "unknown") if signed else "unknown"
