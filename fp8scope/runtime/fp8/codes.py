"""E4M3 codes and back, with scales that are given: what an FP8 GEMM or cache really holds.

`fake_quant` makes its own scales from an amax; here they are those of a checkpoint, to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fp8scope.core.formats import E4M3
from fp8scope.core.schemes import BLOCK_WIDTH

CODES = torch.float8_e4m3fn


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """E4M3 codes of x / scale, clamped to ±448; `scale` float32, broadcast against x, not 0.

    Values of any float dtype are divided in float32; NaN stays NaN.
    """
    # A scalar tensor would leave x in its own dtype; one of an axis makes the quotient float32,
    # with no float32 copy of x before it.
    x = x.float() if x.dtype == torch.float64 else x
    quotient: Tensor = x / torch.atleast_1d(scale)
    return quotient.clamp_(-E4M3.max, E4M3.max).to(CODES)


def token_scales(x: Tensor) -> Tensor:
    """The dynamic scale amax / 448 of each token of x [tokens, channels], float32 [tokens, 1].

    1 for a token of zeros.
    """
    amax = x.abs().amax(dim=-1, keepdim=True).float()
    # a tensor, for CUDA divides by a Python number through its inverse: another last bit; and one
    # that is filled there, for none can be copied to it while a CUDA graph is recorded
    scales = amax / torch.full((), E4M3.max, device=x.device)
    return torch.where(scales == 0, 1.0, scales)


def dequantize_weight(codes: Tensor, scale: Tensor) -> Tensor:
    """The weight [out, in] in float32. `scale`: a scalar, [out], or one for each 128 x 128."""
    if scale.ndim == 1:
        scale = scale[:, None]
    elif scale.ndim == 2:
        rows, columns = codes.shape
        by_row = scale.repeat_interleave(BLOCK_WIDTH, dim=0)[:rows]
        scale = by_row.repeat_interleave(BLOCK_WIDTH, dim=1)[:, :columns]
    return codes.float() * scale
