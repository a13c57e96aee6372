"""Times from the roofline and from measurements, bits from shapes."""

from __future__ import annotations

import pytest

from fp8scope.core.gemms import units
from fp8scope.core.gpus import gpu
from fp8scope.core.roofline import GemmShape, Roofline, Workload
from fp8scope.plan.cost import Cost
from tests.core.test_gemms import structure
from tests.plan import invented
from tests.plan.invented import group

OF = invented.structure()
UNITS = {unit.name: unit for unit in units(OF)}
QKV = group(0, "qkv")
BOUND = Cost(Roofline(gpu("h100-sxm"), Workload()), OF)


def with_times(**measured: float) -> Cost:
    return Cost(BOUND.roofline, OF, {QKV: measured, OF.kv_layers[0].group: measured})


def test_a_fused_group_is_one_gemm_and_lm_head_sees_sampled_tokens() -> None:
    one = BOUND.roofline.unit_time_us([GemmShape(8, 16)], "fp8_tensor")
    assert BOUND.time_us(UNITS[QKV], "fp8_tensor") == one
    head = BOUND.roofline.unit_time_us([GemmShape(8, 16, sampled=True)], "bf16")
    assert BOUND.time_us(UNITS["lm_head"], "bf16") == head < one
    assert BOUND.elements(UNITS[QKV]) == 8 * 16


def test_experts_are_counted_all_and_timed_by_what_tokens_reach() -> None:
    of = structure("mixtral")
    (unit, *_) = (unit for unit in units(of) if unit.gemms[0].experts)
    stacks = [
        linear for linear in of.linears if linear.experts and linear.name.startswith(unit.name)
    ]
    cost = Cost(Roofline(gpu("h100-sxm"), Workload(), 2), of)
    assert cost.elements(unit) == sum(4 * one.in_features * one.out_features for one in stacks)
    shapes = [GemmShape(one.in_features, one.out_features, 4) for one in stacks]
    assert cost.time_us(unit, "bf16") == cost.roofline.unit_time_us(shapes, "bf16")


def test_what_was_measured_goes_before_the_bound_and_scales_the_rest() -> None:
    """Measured at 2 and 4 times the bound: the others are taken to be 3 times theirs."""
    unit = UNITS[QKV]
    bound = {name: BOUND.time_us(unit, name) for name in ("bf16", "fp8_tensor", "fp8_token")}
    cost = with_times(bf16=2 * bound["bf16"], fp8_tensor=4 * bound["fp8_tensor"])
    assert cost.time_us(unit, "bf16") == 2 * bound["bf16"]
    assert cost.time_us(unit, "fp8_tensor") == 4 * bound["fp8_tensor"]
    assert cost.time_us(unit, "fp8_token") == pytest.approx(3 * bound["fp8_token"])
    other = UNITS[group(1, "qkv")]
    assert cost.time_us(other, "bf16") == pytest.approx(3 * BOUND.time_us(other, "bf16"))


def test_a_smoothed_gemm_takes_the_time_that_was_measured_of_the_plain_one() -> None:
    """BF16 at 5 times its bound says nothing of it: the kernel is that of plain FP8."""
    unit = UNITS[QKV]
    cost = with_times(bf16=5 * BOUND.time_us(unit, "bf16"), fp8_tensor=1.5)
    assert cost.time_us(unit, "fp8_smooth") == cost.time_us(unit, "fp8_tensor") == 1.5


def test_a_measured_cache_scales_as_groups_do() -> None:
    layer = OF.kv_layers[0]
    bound = {name: BOUND.cache_us(layer, name) for name in ("bf16", "fp8_tensor")}
    assert bound["fp8_tensor"] == pytest.approx(bound["bf16"] / 2)
    cost = with_times(bf16=3 * bound["bf16"])
    assert cost.cache_us(layer, "bf16") == 3 * bound["bf16"]
    assert cost.cache_us(layer, "fp8_tensor") == pytest.approx(3 * bound["fp8_tensor"])
