"""The FP8 error that a per-tensor histogram cannot know: a scale per token, channel or block.

Errors are kept by binade of |x|, so that the body's SQNR can be read off later for any quantile.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.formats import Format, fake_quantize
from fp8scope.core.magnitude import BINS
from fp8scope.observe.rows import tensor_encoding
from fp8scope.profile.layout import ERROR_MEASURES

SLICE_ELEMENTS = 1 << 20


def error_by_binade(matrix: Tensor, fmt: Format, tile: tuple[int, int]) -> NDArray[np.float64]:
    """Error of quantizing `matrix` [rows, channels] with one dynamic scale per tile.

    tile: (1, channels) is per token or per output channel, (1, 128) the activation blocks and
    (128, 128) the weight blocks of block-wise FP8; tiles at the edge may be smaller.
    Returns [binades, 4]: elements, underflowed, sum of squares, sum of squared errors.
    """
    kind = tensor_encoding(matrix)
    total = np.zeros((kind.binades, len(ERROR_MEASURES)))
    rows = max(1, SLICE_ELEMENTS // (matrix.shape[1] * tile[0])) * tile[0]
    for start in range(0, len(matrix), rows):
        part = matrix[start : start + rows]
        values = part.float().cpu().numpy()
        result = fake_quantize(values, _tile_scales(part, fmt, tile), fmt)
        exact = values.astype(np.float64).ravel()
        noise = (exact - result.values.astype(np.float64).ravel()) ** 2
        binade = _binades(part, kind.mantissa_bits)
        for column, weights in enumerate((None, result.underflowed.ravel(), exact**2, noise)):
            total[:, column] += np.bincount(binade, weights, minlength=kind.binades)
    return total


def _tile_scales(matrix: Tensor, fmt: Format, tile: tuple[int, int]) -> NDArray[np.float32]:
    """The scale of each element's tile, amax / format max, [rows, channels] float32."""
    rows, channels = matrix.shape
    height, width = tile
    # max pooling with ceil_mode is exactly "amax per tile, smaller at the edge"
    amax = F.max_pool2d(matrix.float().abs()[None], tile, ceil_mode=True)[0]
    scales = amax / fmt.max
    scales[scales == 0] = 1
    whole = scales.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :channels]
    return whole.cpu().numpy()


def _binades(matrix: Tensor, mantissa_bits: int) -> NDArray[np.int64]:
    if matrix.dtype is torch.float32:
        patterns = (matrix.contiguous().view(torch.int32) >> 16) & (BINS - 1)
    else:
        patterns = matrix.contiguous().view(torch.int16) & (BINS - 1)
    return (patterns.reshape(-1).long() >> mantissa_bits).cpu().numpy()
