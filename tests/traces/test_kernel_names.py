"""Names that profiles show; `data/kernel_names.json` says where each was seen."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8scope.traces.kernel_names import OTHER, KernelKind, kind_of, scalar_type
from fp8scope.traces.kernel_patterns import PATTERNS, Pattern

SEEN = json.loads((Path(__file__).parent / "data" / "kernel_names.json").read_text("utf-8"))
FP8, BF16 = KernelKind("gemm", "fp8"), KernelKind("gemm", "bf16")


@pytest.mark.parametrize("row", SEEN["kernels"], ids=lambda row: row["name"][:60])
def test_a_recorded_name_tells_its_kind(row: dict[str, Any]) -> None:
    assert kind_of(row["name"]) == KernelKind(row["role"], row["precision"], row["weight_only"])


def test_every_recorded_name_says_where_it_was_seen() -> None:
    assert len({row["name"] for row in SEEN["kernels"]}) == len(SEEN["kernels"]) > 100
    assert all(row["source"] for row in SEEN["kernels"])


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.regex[:50])
def test_a_pattern_is_the_first_that_its_example_fits(pattern: Pattern) -> None:
    fitting = (p for p in PATTERNS if re.search(p.regex, pattern.example, re.IGNORECASE))
    assert next(fitting) is pattern
    assert kind_of(pattern.example).role == pattern.role
    assert pattern.source


def test_the_formats_output_is_not_its_operands() -> None:
    # A and B in FP8, C in BF16; and the other way round
    assert kind_of("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x128") == FP8
    assert kind_of("bmm_E4m3_Bfloat16Bfloat16_Fp32_t128x64x128") == BF16
    out_in_fp8 = (
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<CollectiveMma<"
        "MMA_Atom<SM90_64x128x16_F32BF16BF16_SS<0, 0>>>, Epilogue<cutlass::float_e4m3_t>>>"
    )
    assert kind_of(out_in_fp8) == BF16


def test_the_first_element_type_of_a_template_is_that_of_a() -> None:
    rowwise = (
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int>, "
        "CollectiveMma<MainloopSm90TmaGmma, cutlass::{}, cute::tuple<long>, cutlass::{}>, "
        "CollectiveEpilogue<cutlass::bfloat16_t>>>"
    )
    assert kind_of(rowwise.format("float_e4m3_t", "float_e4m3_t")) == FP8
    assert kind_of(rowwise.format("bfloat16_t", "bfloat16_t")) == BF16


def test_a_narrow_operand_beside_a_wide_one_is_widened() -> None:
    assert kind_of("bmm_Bfloat16_Bfloat16MxE2m1_Fp32_t128x8x256") == KernelKind(
        "gemm", "bf16", True
    )
    # FP4 weights with FP8 activations run on FP8's path
    assert kind_of("bmm_Bfloat16_MxE2m1E4m3_Fp32_t128x8x256") == FP8
    mixed = "void cutlass::device_kernel<MainloopSm90TmaGmmaRmemAWarpSpecializedMixedInput<4>>"
    assert kind_of(mixed) == KernelKind("gemm", "unknown", True)


def test_attention_in_fp8_is_no_gemm_of_a_layer() -> None:
    fa3 = (
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::"
        "CollectiveMainloopFwdSm90<2, cute::C<1>, 128, cutlass::float_e4m3_t, float>>>>"
    )
    assert kind_of(fa3) == KernelKind("attention", "fp8")


@pytest.mark.parametrize(
    ("number", "precision"),
    [
        (1125899906909960, "bf16"),
        (1125899906910725, "fp16"),
        (1125899906909952, "int8"),
        (1125899907892224, "unknown"),  # uint4b8: a weight's
        (1125899906843648, "unknown"),  # uint4
    ],
)
def test_vllms_numbers_of_types(number: int, precision: str) -> None:
    assert scalar_type(number) == precision


def test_what_inductor_fuses_around_a_gemm_is_none() -> None:
    assert kind_of("triton_poi_fused__scaled_mm_add_0").role == "elementwise"
    assert kind_of("triton_red_fused__scaled_mm__to_copy_abs_amax_1").role == "reduction"
    assert kind_of("triton_tem_fused__scaled_mm_2").role == "gemm"


def test_nobody_knows_what_nobody_named() -> None:
    assert kind_of("some_kernel_nobody_has_seen") == kind_of("") == OTHER
    assert kind_of("nvjet_sm90_xyzzy_64x8") == KernelKind("gemm", "unknown")


@pytest.mark.parametrize("part", ["flash fwd ", "cutlass gemm flash fwd ", "quant<", "xmma_gemm_"])
def test_a_name_made_to_be_slow_is_read_in_seconds(part: str) -> None:
    began = time.monotonic()
    kind_of(part * (1_000_000 // len(part)))
    assert time.monotonic() - began < 10  # without atomic groups: minutes


@given(st.text(max_size=300))
def test_any_name_has_a_kind(name: str) -> None:
    assert kind_of(name).precision in {"fp8", "bf16", "fp16", "fp32", "int8", "fp4", "unknown"}
