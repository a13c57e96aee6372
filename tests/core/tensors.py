"""Tensors of each dtype, their histograms, and direct quantization to compare with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp8scope.core.formats import Format
from fp8scope.core.histogram import Histogram
from fp8scope.core.magnitude import BINS, encoding

TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def histogram(tensor: Tensor) -> Histogram:
    """Counted the plain way, with numpy."""
    kind = encoding(str(tensor.dtype).removeprefix("torch."))
    flat = tensor.reshape(-1)
    if tensor.dtype is torch.float32:
        bins = flat.view(torch.int32).numpy().view(np.uint32) >> 16 & 0x7FFF
    else:
        bins = flat.view(torch.int16).numpy().view(np.uint16) & 0x7FFF
    size = flat.float().abs().numpy()
    counts = np.bincount(bins, minlength=BINS).astype(np.int64)
    amax = float(size[np.isfinite(size)].max(initial=0))
    return Histogram(kind, counts, int((size == 0).sum()), amax)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heavy(count: int, seed: int = 0, freedom: int = 2) -> Tensor:
    """Student's t: with 2 degrees of freedom it has no variance."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(freedom, count).astype(np.float32))


@dataclass(frozen=True)
class Direct:
    """What quantizing the tensor itself gives."""

    saturated: int
    underflowed: int
    mse: float
    sqnr_db: float


def direct(tensor: Tensor, fmt: Format, scale: float) -> Direct:
    """Divide, clamp, cast with torch, multiply back; energies in float64."""
    step = torch.tensor(scale, dtype=torch.float32)
    exact = tensor.float().reshape(-1)
    divided = exact / step
    # the last value that rounds down to max: half a step above it
    binade = 2.0 ** np.floor(np.log2(fmt.max))
    ulp = binade / 2 ** (fmt.mantissa_bits or 0)
    middle = fmt.max + ulp / 2
    size = divided.abs()
    over = size >= middle if fmt.name == "e5m2" else size > middle  # ties to even
    quantized = divided.clamp(-fmt.max, fmt.max).to(TORCH[fmt.name]).float() * step
    noise = float(((exact.double() - quantized.double()) ** 2).sum())
    signal = float((exact.double() ** 2).sum())
    return Direct(
        saturated=int(over.sum()),
        underflowed=int(((quantized == 0) & (exact != 0)).sum()),
        mse=noise / exact.numel(),
        sqnr_db=float(10 * np.log10(signal / noise)) if noise else float("inf"),
    )


def magnitudes(tensor: Tensor) -> NDArray[np.float64]:
    """Finite, non-zero |x|, sorted."""
    size = tensor.double().abs().reshape(-1).numpy()
    return np.sort(size[np.isfinite(size) & (size > 0)])
