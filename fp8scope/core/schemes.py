"""What a group of linears could run in: its candidates, by the names used everywhere.

A `Scheme` says how one tensor is quantized: format × granularity × static or dynamic. A
`Candidate` is a scheme for the input and one for the weight of a GEMM, as an engine pairs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fp8scope.core.formats import E2M1, E4M3, E5M2, INT4, INT8, Format

ALL = 0


class Tile(NamedTuple):
    """Rows × columns that share a scale; 0 is all of them.

    Rows are tokens of an activation or output channels of a weight, columns the channels that
    a GEMM sums over.
    """

    rows: int
    columns: int


TENSOR, ROW = Tile(ALL, ALL), Tile(1, ALL)
BLOCK_WIDTH = 128
INPUT_BLOCK, WEIGHT_BLOCK = Tile(1, BLOCK_WIDTH), Tile(BLOCK_WIDTH, BLOCK_WIDTH)


@dataclass(frozen=True)
class Scheme:
    """`static`: the scale comes from calibration, else from the very values (a weight's always
    does). `scale_format`: the scales of the tiles are themselves held in it, under one scale of
    the whole tensor, which is what `static` is about then.
    """

    format: Format
    tile: Tile
    static: bool = False
    scale_format: Format | None = None

    @property
    def takes_row_factors(self) -> bool:
        """Whether a power of two in a whole row changes nothing: it goes into the row's scales."""
        return self.tile.rows == 1 and self.scale_format is None


@dataclass(frozen=True)
class Candidate:
    """A pair of schemes; None leaves that side as it is. `smooth` moves a factor per channel
    from the input into the weight first, see `core.smoothing`.
    """

    name: str
    input: Scheme | None
    weight: Scheme | None
    smooth: bool = False


def _static(fmt: Format) -> Scheme:
    return Scheme(fmt, TENSOR, static=True)


_FP4_BLOCK = Tile(1, 16)

CANDIDATES: Mapping[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        Candidate("fp8_tensor", _static(E4M3), Scheme(E4M3, TENSOR)),
        Candidate("fp8_token", Scheme(E4M3, ROW), Scheme(E4M3, ROW)),
        Candidate("fp8_block", Scheme(E4M3, INPUT_BLOCK), Scheme(E4M3, WEIGHT_BLOCK)),
        Candidate("fp8_smooth", _static(E4M3), Scheme(E4M3, TENSOR), smooth=True),
        Candidate("e5m2_tensor", _static(E5M2), Scheme(E5M2, TENSOR)),
        Candidate("int8_tensor", _static(INT8), Scheme(INT8, ROW)),
        Candidate("int8_smooth", _static(INT8), Scheme(INT8, ROW), smooth=True),
        Candidate("int8_weight", None, Scheme(INT8, ROW)),
        Candidate("int4_weight", None, Scheme(INT4, Tile(1, BLOCK_WIDTH))),
        Candidate(
            "nvfp4",
            Scheme(E2M1, _FP4_BLOCK, static=True, scale_format=E4M3),
            Scheme(E2M1, _FP4_BLOCK, scale_format=E4M3),
        ),
    )
}
DEFAULT_CANDIDATES = ("fp8_tensor", "fp8_token", "fp8_block", "fp8_smooth")
"""What FP8 engines run; the others are what-ifs."""

KV_CANDIDATES = ("fp8_tensor", "fp8_unit")
"""Of a layer's KV cache: calibrated static scales for K and for V, or 1, which engines take where
a checkpoint brings none."""
