"""What an FP8 linear reads and holds, the obvious way, and how far two results are apart."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from fp8scope.core.formats import E4M3, fake_quantize
from fp8scope.runtime.fp8.codes import CODES, dequantize_weight, quantize
from fp8scope.runtime.fp8.linear import Fp8Linear, Gemm

GEMMS: tuple[Gemm, ...] = ("scaled_mm", "dequantized")


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


def read(linear: Fp8Linear, x: Tensor) -> Tensor:
    """The input as the GEMM should read it, by the reference in numpy, a scale at a time."""
    rows = x.float().numpy()
    if linear.input_scale is not None:
        scale = np.float32(linear.input_scale)
        return torch.from_numpy(fake_quantize(rows, scale, E4M3).values)
    width = 128 if linear.treatment == "fp8_block" else rows.shape[1]
    found = np.zeros_like(rows)
    for row, left in product(range(len(rows)), range(0, rows.shape[1], width)):
        part = rows[row, left : left + width]
        scale = np.abs(part).max() / np.float32(E4M3.max) or np.float32(1)
        found[row, left : left + width] = fake_quantize(part, scale, E4M3).values
    return torch.from_numpy(found)
