"""The FP8 error that a per-tensor histogram cannot know: a scale per token, channel or block.

Errors are kept by binade of |x|, so that the body's SQNR can be read off later for any quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.formats import Format, fake_quantize
from fp8scope.observe.stats import tensor_encoding
from fp8scope.profile.layout import ERROR_MEASURES

SLICE_ELEMENTS = 1 << 20


Tile = tuple[int, int]


def errors_by_binade(
    matrix: Tensor, fmt: Format, tiles: Sequence[Tile]
) -> list[NDArray[np.float64]]:
    """Error of quantizing `matrix` [rows, channels] with one dynamic scale per tile, by tiling.

    A tile (1, channels) is per token or per output channel, (1, 128) the activation blocks and
    (128, 128) the weight blocks of block-wise FP8; tiles at the edge may be smaller.
    Each result is [binades, 4]: elements, underflowed, sum of squares, sum of squared errors.
    """
    kind = tensor_encoding(matrix)
    totals = [np.zeros((kind.binades, len(ERROR_MEASURES))) for _ in tiles]
    height = math.lcm(*(tile[0] for tile in tiles))
    rows = max(1, SLICE_ELEMENTS // (matrix.shape[1] * height)) * height
    for start in range(0, len(matrix), rows):
        values = matrix[start : start + rows].float().cpu().numpy()
        binade = (kind.bins(np.abs(values)) >> kind.mantissa_bits).ravel()
        exact = values.astype(np.float64)

        def by_binade(weights: Any, binade: NDArray[Any] = binade) -> Any:
            return np.bincount(binade, weights, minlength=kind.binades)

        elements, signal = by_binade(None), by_binade((exact**2).ravel())
        for index, tile in enumerate(tiles):
            result = fake_quantize(values, _tile_scales(values, fmt, tile), fmt)
            noise = by_binade(((exact - result.values) ** 2).ravel())
            underflowed = by_binade(result.underflowed.ravel())
            totals[index] += np.stack((elements, underflowed, signal, noise), axis=1)
    return totals


def _tile_scales(values: NDArray[np.float32], fmt: Format, tile: Tile) -> NDArray[np.float32]:
    """The scale of each element's tile, amax / format max, [rows, channels] float32."""
    (rows, channels), (height, width) = values.shape, tile
    amax = np.maximum.reduceat(np.abs(values), range(0, channels, width), axis=1)
    amax = np.maximum.reduceat(amax, range(0, rows, height), axis=0)
    scales = (amax / np.float32(fmt.max)).astype(np.float32)
    scales[scales == 0] = 1
    return scales.repeat(height, 0)[:rows].repeat(width, 1)[:, :channels]
