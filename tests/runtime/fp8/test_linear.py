"""A linear with E4M3 codes computes the product of the fake-quantized operands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fp8scope.core.formats import E4M3
from fp8scope.core.schemes import CANDIDATES, TENSOR, Scheme
from fp8scope.runtime.fake_quant import fake_quantize
from fp8scope.runtime.fp8.codes import CODES, dequantize_weight, quantize, token_scales
from fp8scope.runtime.fp8.linear import Fp8Linear, Gemm
from tests.runtime.fp8.reference import GEMMS, codes_of, db, normals, read, weight_scale

SHAPES = ((172, 40), (64, 256), (130, 257), (7, 3))
TREATMENTS = ("fp8_tensor", "fp8_tensor_dynamic", "fp8_token", "fp8_block")
# Against float64: a dtype rounds the output; "dequantized" rounds both operands to it before.
FLOOR_DB = {torch.float32: 120.0, torch.bfloat16: 45.0}


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


@pytest.mark.parametrize("dtype", FLOOR_DB, ids=str)
@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_of_what_is_fake_quantized(
    shape: tuple[int, int], treatment: str, gemm: Gemm, dtype: torch.dtype
) -> None:
    linear = make(shape, treatment, gemm=gemm)
    assert linear.treatment == treatment
    bias = normals(shape[0], seed=2).to(dtype)
    linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    x = (normals(5, shape[1], seed=3) * torch.exp(normals(5, 1, seed=4))).to(dtype)
    x[2] = 0
    got = linear(x)
    weight = dequantize_weight(linear.weight, linear.weight_scale).double()
    want = read(linear, x).double() @ weight.T + bias.double()
    assert got.dtype is dtype
    assert db(got, want) > FLOOR_DB[dtype]
    assert torch.equal(got[2], bias)


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


@pytest.mark.parametrize("dtype", FLOOR_DB, ids=str)
@pytest.mark.parametrize("treatment", TREATMENTS[:3])
def test_padding_for_cuda_changes_nothing(
    treatment: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that CUDA goes, with sizes up to multiples of 16, taken on the CPU."""
    linear, x = make((172, 40), treatment), normals(5, 40, seed=3).to(dtype)
    linear.bias = torch.nn.Parameter(normals(172, seed=2).to(dtype), requires_grad=False)
    plain = linear(x)
    multiply, seen = torch._scaled_mm, []

    def watched(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((tuple(a.shape), tuple(b.shape)))
        return multiply(a, b, *args, **kwargs)

    monkeypatch.setattr("fp8scope.runtime.fp8.linear._on_cuda", lambda _: True)
    monkeypatch.setattr(torch, "_scaled_mm", watched)
    assert db(linear(x), plain) > FLOOR_DB[dtype]
    assert seen == [((5, 48), (48, 176))]


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_compiled_as_one_graph(treatment: str, gemm: Gemm) -> None:
    """Nothing in it keeps torch.compile from seeing the whole, and bits stay what they are."""
    torch.compiler.reset()
    linear, x = make((172, 40), treatment, bias=False, gemm=gemm), normals(5, 40, seed=3).bfloat16()
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), linear(x))


def test_what_it_multiplies() -> None:
    """Blocks never run as an FP8 GEMM; what is no multiple of 16 is padded where one does."""
    assert [make((32, 48), t).multiplies_codes for t in TREATMENTS] == [True, True, True, False]
    assert not make((32, 48), "fp8_tensor", gemm="dequantized").multiplies_codes
    shapes = ((32, 48), (32, 40), (172, 48))
    assert [make(shape, "fp8_token").padded_on_cuda for shape in shapes] == [False, True, True]
    assert not make((32, 40), "fp8_block").padded_on_cuda


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [*FLOOR_DB, torch.float16], ids=str)
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_on_cuda_as_on_the_cpu(treatment: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        linear, x = make(shape, treatment, bias=False), normals(5, shape[1], seed=3).to(dtype)
        want = linear(x)
        assert db(linear.cuda()(x.cuda()).cpu(), want) > 45


def test_shapes_that_do_not_fit() -> None:
    codes = torch.zeros(4, 6).to(CODES)
    for scale in (torch.ones(3), torch.ones(6), torch.ones(4, 6), torch.ones(1, 4)):
        with pytest.raises(ValueError, match="does not fit"):
            Fp8Linear(codes, scale)
    with pytest.raises(ValueError, match="codes are"):
        Fp8Linear(torch.zeros(4, 6), torch.tensor(1.0))
    with pytest.raises(ValueError, match="a static input scale"):
        Fp8Linear(codes, torch.ones(4), torch.tensor(1.0))
