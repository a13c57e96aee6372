"""A linear with E4M3 codes computes the product of the fake-quantized operands."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fp8scope.core.formats import E4M3
from fp8scope.core.formats import fake_quantize as reference
from fp8scope.core.schemes import CANDIDATES, TENSOR, Scheme
from fp8scope.runtime.fake_quant import fake_quantize
from fp8scope.runtime.fp8_codes import CODES, dequantize_weight, quantize, token_scales
from fp8scope.runtime.fp8_linear import Fp8Linear, Gemm

GEMMS: tuple[Gemm, ...] = ("scaled_mm", "dequantized")
SHAPES = ((172, 40), (64, 256), (130, 257), (7, 3))
TREATMENTS = ("fp8_tensor", "fp8_tensor_dynamic", "fp8_token", "fp8_block")
# Against float64: a dtype rounds the output; "dequantized" rounds both operands to it before.
FLOOR_DB = {torch.float32: 120.0, torch.bfloat16: 45.0}


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def db(got: Tensor, want: Tensor) -> float:
    got, want = got.detach(), want.detach().double()
    return float(10 * torch.log10(want.square().sum() / (got.double() - want).square().sum()))


def weight_scale(weight: Tensor, treatment: str) -> Tensor:
    if treatment == "fp8_token":
        return weight.abs().amax(dim=1) / E4M3.max
    if treatment == "fp8_block":
        rows, columns = weight.shape
        down, right = -(-rows // 128), -(-columns // 128)
        padded = torch.zeros(down * 128, right * 128)
        padded[:rows, :columns] = weight
        return padded.view(down, 128, right, 128).abs().amax(dim=(1, 3)) / E4M3.max
    return weight.abs().amax() / E4M3.max


def codes_of(weight: Tensor, scale: Tensor) -> Tensor:
    """Each weight by its own scale, element by element."""
    whole = dequantize_weight(torch.ones(weight.shape).to(CODES), scale)
    return quantize(weight, whole)


def make(shape: tuple[int, int], treatment: str, *, bias: bool = True, **options: Any) -> Fp8Linear:
    weight = normals(*shape) * torch.exp(normals(shape[0], 1, seed=1))
    scale = weight_scale(weight, treatment)
    return Fp8Linear(
        codes_of(weight, scale),
        scale,
        torch.tensor(0.01) if treatment == "fp8_tensor" else None,
        normals(shape[0], seed=2) if bias else None,
        **options,
    )


def read(linear: Fp8Linear, x: Tensor) -> Tensor:
    """The input as the GEMM should read it, by the reference in numpy, a scale at a time."""
    rows = x.float().numpy()
    if linear.input_scale is not None:
        scale = np.float32(linear.input_scale)
        return torch.from_numpy(reference(rows, scale, E4M3).values)
    width = 128 if linear.treatment == "fp8_block" else rows.shape[1]
    found = np.zeros_like(rows)
    for row, left in product(range(len(rows)), range(0, rows.shape[1], width)):
        part = rows[row, left : left + width]
        scale = np.abs(part).max() / np.float32(E4M3.max) or np.float32(1)
        found[row, left : left + width] = reference(part, scale, E4M3).values
    return torch.from_numpy(found)


@pytest.mark.parametrize("dtype", FLOOR_DB, ids=str)
@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_of_what_is_fake_quantized(
    shape: tuple[int, int], treatment: str, gemm: Gemm, dtype: torch.dtype
) -> None:
    linear = make(shape, treatment, gemm=gemm)
    assert linear.treatment == treatment
    linear.bias = torch.nn.Parameter(linear.bias.to(dtype), requires_grad=False)  # type: ignore[union-attr]
    x = (normals(5, shape[1], seed=3) * torch.exp(normals(5, 1, seed=4))).to(dtype)
    x[2] = 0
    got = linear(x)
    weight = dequantize_weight(linear.weight, linear.weight_scale).double()
    want = read(linear, x).double() @ weight.T + linear.bias.double()  # type: ignore[union-attr]
    assert got.dtype is dtype
    assert db(got, want) > FLOOR_DB[dtype]
    assert torch.equal(got[2], linear.bias)  # type: ignore[arg-type]


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_no_rows_and_leading_axes(treatment: str) -> None:
    linear = make((172, 40), treatment)
    assert linear(torch.zeros(0, 40)).shape == (0, 172)
    assert linear(torch.zeros(2, 0, 40)).shape == (2, 0, 172)
    x = normals(2, 3, 40, seed=5)
    assert torch.equal(linear(x).view(6, 172), linear(x.view(6, 40)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_too_large_is_clamped(dtype: torch.dtype) -> None:
    """Beyond amax an input is 448 times its scale, inf included; NaN stays NaN."""
    linear = make((16, 32), "fp8_tensor", bias=False)
    x = normals(4, 32, seed=6).to(dtype)
    x[0, 3], x[1, 4], x[2, 5] = 30000.0, -torch.inf, torch.nan
    inside = x.clone()
    inside[0, 3], inside[1, 4] = 4.48, -4.48
    got, want = linear(x), linear(inside)
    assert got.dtype is dtype
    assert torch.equal(got[[0, 1, 3]], want[[0, 1, 3]])
    assert got[[0, 1, 3]].isfinite().all()
    assert got[2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_times_scale_are_fake_quantization(dtype: torch.dtype) -> None:
    """Bit for bit, where the scale is an amax / 448."""
    x = (normals(9, 300) * torch.exp2(8 * normals(9, 300, seed=1))).to(dtype)
    x[4] = 0
    scales = token_scales(x)
    per_token = CANDIDATES["fp8_token"].input
    assert per_token is not None
    assert torch.equal(quantize(x, scales).float() * scales, fake_quantize(x, per_token))
    for amax in (1.0, 3.7, 1e-6, 2e4):
        scale = torch.tensor(E4M3.scale(amax))
        static = fake_quantize(x, Scheme(E4M3, TENSOR, static=True), amax)
        assert torch.equal(quantize(x, scale).float() * scale, static)


@settings(deadline=None, max_examples=40)
@given(
    power=st.integers(-20, 20),
    seed=st.integers(0, 99),
    gemm=st.sampled_from(GEMMS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    static=st.booleans(),
)
def test_a_power_of_two_goes_through(
    power: int, seed: int, gemm: Gemm, dtype: torch.dtype, static: bool
) -> None:
    """Input and input scale times 2^k: the same codes, and the output times 2^k to the bit."""
    linear = make((24, 40), "fp8_tensor" if static else "fp8_token", bias=False, gemm=gemm)
    x = normals(3, 40, seed=seed).to(dtype)
    plain, factor = linear(x), 2.0**power
    if linear.input_scale is not None:
        linear.input_scale *= factor
    assert torch.equal(linear(x * factor), plain * factor)


def test_padding_for_cuda_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that CUDA goes, with sizes up to multiples of 16, taken on the CPU."""
    from fp8scope.runtime import fp8_linear

    for treatment in TREATMENTS[:3]:
        linear = make((172, 40), treatment)
        x = normals(5, 40, seed=3)
        plain = linear(x)
        with monkeypatch.context() as patch:
            patch.setattr(fp8_linear, "_on_cuda", lambda _: True)
            seen: list[tuple[torch.Size, torch.Size]] = []
            multiply = torch._scaled_mm

            def watched(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                seen.append((a.shape, b.shape))  # noqa: B023
                return multiply(a, b, *args, **kwargs)  # noqa: B023

            patch.setattr(torch, "_scaled_mm", watched)
            assert db(linear(x), plain) > 120
        assert seen == [((5, 48), (48, 176))]


def test_shapes_that_do_not_fit() -> None:
    codes = torch.zeros(4, 6).to(CODES)
    for scale in (torch.ones(3), torch.ones(6), torch.ones(4, 6), torch.ones(1, 4)):
        with pytest.raises(ValueError, match="does not fit"):
            Fp8Linear(codes, scale)
    with pytest.raises(ValueError, match="codes are"):
        Fp8Linear(torch.zeros(4, 6), torch.tensor(1.0))
    with pytest.raises(ValueError, match="a static input scale"):
        Fp8Linear(codes, torch.ones(4), torch.tensor(1.0))
