"""Counters, then the name, then the operands' dtypes; in that order, and no further."""

from __future__ import annotations

import pytest

from fp8scope.traces.precision import precision_of
from fp8scope.traces.trace import Counter, Kernel

FP8_NAME, BF16_NAME = "nvjet_sm90_qqtst_128x128_TNT", "nvjet_sm90_tst_192x192_TNN"
TRITON = "triton_tem_fused_mm_3"


def seen(name: str, *operands: str, **counted: float) -> Kernel:
    counters: dict[Counter, float] = {f"{key}_ops": value for key, value in counted.items()}  # type: ignore[misc]
    return Kernel(name, 10.0, operands=operands, counters=counters)


def test_counters_beat_a_name() -> None:
    lying = seen(FP8_NAME, fp8=0.0, bf16=2.0**40)
    assert precision_of(lying) == ("bf16", "counters: 1.1e+12 operations in BF16")
    assert precision_of(seen("no_name", fp8=2.0**40, bf16=0.0))[0] == "fp8"


def test_a_mixture_is_said() -> None:
    found = precision_of(seen(TRITON, fp8=3e9, bf16=1e9))
    assert found == ("fp8", "counters: 75% in FP8 and 25% in BF16")
    # a few operations of the other kind are no mixture
    assert precision_of(seen(TRITON, fp8=3e9, bf16=1e6))[1].endswith("in FP8")


def test_without_counts_the_name_tells() -> None:
    assert precision_of(seen(FP8_NAME)) == ("fp8", "name")
    # a kernel of the CUDA cores: ncu counted, and found no Tensor Cores
    assert precision_of(seen(BF16_NAME, fp8=0.0, bf16=0.0, fp16=0.0)) == ("bf16", "name")
    assert precision_of(seen("void marlin::Marlin<__nv_bfloat16, 1125899907892224l>")) == (
        "bf16",
        "name: weights widened in the kernel",
    )


@pytest.mark.parametrize(
    ("operands", "precision"),
    [
        (("float8_e4m3fn", "float8_e4m3fn", "float32", "float32"), "fp8"),
        (("float8_e4m3fn", "float8_e5m2"), "fp8"),
        (("bfloat16", "float8_e4m3fn", "float8_e4m3fn", "float32"), "fp8"),  # out, a, b, scale
        (("bfloat16", "bfloat16", "bfloat16"), "bf16"),  # bias, a, b
        (("float16", "float16"), "fp16"),
        (("float32", "float32"), "fp32"),
        (("bfloat16", "float8_e4m3fn", "float32"), "bf16"),  # weights only
        (("bfloat16", "uint8", "float8_e8m0fnu"), "unknown"),
        ((), "unknown"),
    ],
)
def test_where_the_name_says_nothing_the_operands_do(
    operands: tuple[str, ...], precision: str
) -> None:
    assert precision_of(seen(TRITON, *operands))[0] == precision


def test_an_expert_layers_operator_says_nothing_of_its_kernels() -> None:
    weights = ("bfloat16", "float8_e4m3fn", "float8_e4m3fn", "float32", "float32")
    assert precision_of(seen("fused_moe_kernel", *weights)) == ("unknown", "")


def test_what_does_not_multiply_has_no_precision() -> None:
    kernel = seen("void at::native::reduce_kernel<512>", "bfloat16", "bfloat16")
    assert precision_of(kernel) == ("unknown", "")
