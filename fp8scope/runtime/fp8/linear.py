"""A linear whose weight is kept as E4M3 codes, run as an FP8 engine runs it, in plain torch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from fp8scope.core.modules import Treatment
from fp8scope.core.schemes import BLOCK_WIDTH, CANDIDATES
from fp8scope.runtime.fake_quant import fake_quantize
from fp8scope.runtime.fp8.codes import CODES, dequantize_weight, quantize, token_scales

Gemm = Literal["scaled_mm", "dequantized"]
_CUDA_MULTIPLE = 16  # of rows and columns of the weight; cuBLAS takes no others in FP8


class Fp8Linear(nn.Module):
    """y = x @ W.T + b with W in E4M3 and x rounded to E4M3 first.

    codes: [out, in] float8_e4m3fn. weight_scale: float32, a scalar, [out], or one for each block
    of 128 x 128 of W. input_scale: a float32 scalar for all inputs; without it each token has its
    own, or with block scales each 128 channels of a token. bias: [out].

    `gemm`: "scaled_mm" multiplies the codes (`torch._scaled_mm`; bf16 in, bf16 out, else by way of
    float32), "dequantized" both operands in the dtype of the input. Block scales always go the
    second way. Raises ValueError for shapes that do not fit.

    `fast_accum`: on Hopper, sum in the tensor cores' own registers, of fewer bits than float32, as
    engines do; it is faster.
    """

    fast_accum = False

    def __init__(
        self,
        codes: Tensor,
        weight_scale: Tensor,
        input_scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        gemm: Gemm = "scaled_mm",
    ) -> None:
        super().__init__()
        _check(codes, weight_scale, input_scale)
        self.out_features, self.in_features = codes.shape
        self.gemm: Gemm = gemm
        self.weight = nn.Parameter(codes.contiguous(), requires_grad=False)
        self.weight_scale: Tensor
        self.input_scale: Tensor | None
        self.register_buffer("weight_scale", weight_scale.contiguous())
        self.register_buffer("input_scale", input_scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def treatment(self) -> Treatment:
        """What the shapes of its scales make of it."""
        if self.weight_scale.ndim:
            return "fp8_token" if self.weight_scale.ndim == 1 else "fp8_block"
        return "fp8_tensor_dynamic" if self.input_scale is None else "fp8_tensor"

    @property
    def multiplies_codes(self) -> bool:
        """Whether the GEMM itself is in FP8."""
        return self.gemm == "scaled_mm" and self.treatment != "fp8_block"

    @property
    def padded_on_cuda(self) -> bool:
        """Whether an FP8 GEMM there needs a padded copy of the weight, at each call."""
        odd = self.out_features % _CUDA_MULTIPLE or self.in_features % _CUDA_MULTIPLE
        return self.multiplies_codes and bool(odd)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out] in the dtype of x."""
        rows = x.reshape(-1, self.in_features)
        if not len(rows):
            y = rows.new_zeros(0, self.out_features)
        elif self.multiplies_codes:
            y = self._by_codes(rows)
        else:
            weight = dequantize_weight(self.weight, self.weight_scale).to(x.dtype)
            y = linear(self._rounded(rows).to(x.dtype), weight, self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {self.treatment}, gemm={self.gemm}"

    def _input_scales(self, rows: Tensor) -> Tensor:
        return token_scales(rows) if self.input_scale is None else self.input_scale

    def _rounded(self, rows: Tensor) -> Tensor:
        """The input as the GEMM reads it, float32."""
        if self.treatment == "fp8_block":
            scheme = CANDIDATES["fp8_block"].input
            assert scheme is not None  # noqa: S101  # a constant
            return fake_quantize(rows, scheme)
        scales = self._input_scales(rows)
        return quantize(rows, scales).float() * scales

    def _by_codes(self, rows: Tensor) -> Tensor:
        scales = self._input_scales(rows)
        codes, weight = quantize(rows, scales), self.weight.detach()
        by_column = self.weight_scale
        bias: Tensor | None = self.bias
        if _on_cuda(rows):
            codes, weight = _padded(codes, rows=False), _padded(weight)
            more = (0, len(weight) - self.out_features)
            by_column = pad(by_column, more) if by_column.ndim else by_column
            bias = pad(bias, more) if bias is not None else None
        y = _scaled_mm(
            codes, weight, (scales, by_column), bias, rows.dtype, fast_accum=self.fast_accum
        )
        return y[:, : self.out_features]


def _scaled_mm(
    codes: Tensor,
    weight: Tensor,
    scales: tuple[Tensor, Tensor],
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    fast_accum: bool,
) -> Tensor:
    """Codes [n, in] @ weight [out, in].T, scaled by two scalars, or by row and by column."""
    rows, columns = scales
    out = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    after = None
    if rows.ndim or columns.ndim:
        rows = rows.expand(len(codes), 1).contiguous()
        columns = columns.expand(len(weight))[None].contiguous()
        # Scales by row and column: on CUDA for bf16 alone, on the CPU not in every torch.
        if out != torch.bfloat16 or not _on_cuda(codes):
            after, out = rows * columns, torch.float32
            rows = columns = torch.ones((), device=codes.device)
    fused = bias is not None and bias.dtype == out == torch.bfloat16
    # The public `scaled_mm` of torch 2.10 is the same GEMM under the same rules.
    y = torch._scaled_mm(
        codes,
        weight.T,
        rows,
        columns,
        bias=bias if fused else None,
        out_dtype=out,
        use_fast_accum=fast_accum,
    )
    if after is not None:
        y = y * after
    if bias is not None and not fused:
        y = y + bias
    return y.to(dtype)


def _on_cuda(x: Tensor) -> bool:
    return x.is_cuda


def _padded(codes: Tensor, *, rows: bool = True) -> Tensor:
    """With zeros up to a multiple of 16 columns, and rows."""
    down, right = (-size % _CUDA_MULTIPLE for size in codes.shape)
    down *= rows
    if not down and not right:
        return codes
    return pad(codes.view(torch.uint8), (0, right, 0, down)).view(CODES)


def _check(codes: Tensor, weight_scale: Tensor, input_scale: Tensor | None) -> None:
    if codes.dtype != CODES or codes.ndim != 2:
        raise ValueError(f"codes are [out, in] in {CODES}, not {codes.dtype} {codes.shape}")
    rows, columns = codes.shape
    blocks = (-(-rows // BLOCK_WIDTH), -(-columns // BLOCK_WIDTH))
    shape = tuple(weight_scale.shape)
    if shape not in {(), (rows,), blocks}:
        raise ValueError(f"a weight scale {shape} does not fit a weight {tuple(codes.shape)}")
    if input_scale is not None and (input_scale.ndim or shape):
        raise ValueError("a static input scale is a scalar, beside a scalar weight scale")
