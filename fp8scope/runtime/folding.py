"""Smoothing factors folded into a model's parameters: the one place where that is done.

The producer's output channels are divided by s and the columns that read them multiplied by s, as
in `core.smoothing`; in float32, rounded once to the parameter's dtype. With powers of two no bit
changes as long as values stay normal numbers, which in bf16 and fp32 they do. fp16 is narrow: the
smallest weights of a model are subnormal in it before anything is folded, so that a fold which must
lose nothing would never be made. The rule is that a fold may cost what a rounding to the dtype
costs, and no more: with the factor taken back, no value may be off by more than one last place
(`eps`) of the largest value of its channel. A producer's bias counts as one more input of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fp8scope.core.structure import Fold
from fp8scope.errors import BadModel
from fp8scope.runtime.linears import linear_weights

Float32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

_SMALLER = "use a smaller α, a wider dtype, or leave what reads it unsmoothed"
_UNSMOOTHED = "leave what reads it unsmoothed"
_THIS_MODEL = "take the folds and factors of this very model"


class _Scaled(NamedTuple):
    """Channels of the parameter `name`, [channels, any] in its own memory, and what multiplies
    each, [channels, 1] float32. Of stacked experts, those of one.
    """

    name: str
    values: Tensor
    by: Tensor

    def folded(self) -> Tensor:
        return (self.values * self.by).to(self.values.dtype)

    def taken_back(self, folded: Tensor) -> Tensor:
        return (folded / self.by).to(folded.dtype)


class Folded(NamedTuple):
    """A fold that was made: every parameter's channels with what they held before, None where
    dividing by the factor gives it back. `inexact` counts the values where it does not.
    """

    made: tuple[tuple[_Scaled, Tensor | None], ...]
    inexact: int

    @torch.no_grad()
    def undo(self) -> None:
        """Every bit as before; of several folds, the last one first."""
        for scaled, before in self.made:
            scaled.values.copy_(scaled.taken_back(scaled.values) if before is None else before)


@contextmanager
def folded(model: nn.Module, folds: Mapping[Fold, Floats]) -> Iterator[None]:
    """Inside, the model with these folds made, in order; afterwards every bit as before.

    Raises BadModel where `fold` does, and then no fold is made.
    """
    with ExitStack() as back:
        for each, factors in folds.items():
            back.callback(fold(model, each, factors).undo)
        yield


@torch.no_grad()
def fold(model: nn.Module, fold: Fold, factors: Floats) -> Folded:
    """Fold `factors` [n] into the model, in place; [experts, n] from one stack to another.

    All is checked before anything changes. Raises BadModel, naming the fold and the tensor, for
    values that would overflow the dtype or be too small for it (see above), for a parameter that
    shares its memory with another, for a norm of 1 + w, and for factors that do not fit the model
    or are not positive and finite.
    """
    if not fold.takes_factors:
        raise _refusal(fold, "its weight w acts as 1 + w, which loses bits when it is scaled")
    weights = _weights(model, fold)
    factors = _checked_factors(fold, factors, weights[fold.producer])
    side_by_side = [
        *_producer(model, fold, factors, weights[fold.producer]),
        *_consumers(fold, factors, weights),
    ]
    _refuse_shared(model, fold, {scaled.name for beside in side_by_side for scaled in beside})
    checked = [_checked(fold, beside) for beside in side_by_side]
    made = tuple(pair for pairs, _ in checked for pair in pairs)
    for scaled, _ in made:
        scaled.values.copy_(scaled.folded())
    return Folded(made, sum(inexact for _, inexact in checked))


def _weights(model: nn.Module, fold: Fold) -> dict[str, Tensor]:
    """Weights [out, in] or [experts, out, in] by module; a norm is one of a single input."""
    weights = linear_weights(model)
    if fold.kind == "norm":
        parameters = dict(model.named_parameters(remove_duplicate=False))
        norm = parameters.get(f"{fold.producer}.weight")
        weights |= {} if norm is None else {fold.producer: norm.unsqueeze(-1)}
    for name in (fold.producer, *fold.consumers):
        if name not in weights:
            raise _refusal(fold, f"the model has no {name}", _THIS_MODEL)
    return weights


def _checked_factors(fold: Fold, factors: Floats, producer: Tensor) -> Float32:
    """In float32. Refuses what is no number there, or has no inverse, and what does not fit."""
    with np.errstate(divide="ignore", over="ignore"):
        factors = np.asarray(factors, np.float32)
        usable = (factors > 0) & np.isfinite(factors) & np.isfinite(1 / factors)
    shape = (*producer.shape[:-2], fold.channels)
    if factors.shape != shape:
        raise _refusal(
            fold, f"it takes factors {list(shape)}, not {list(factors.shape)}", _THIS_MODEL
        )
    if max(stop for _, stop in fold.rows) > producer.shape[-2]:
        raise _refusal(fold, f"it has only {producer.shape[-2]} channels", _THIS_MODEL)
    if count := int((~usable).sum()):
        what = f"{count} of {factors.size} factors are not positive and finite"
        raise _refusal(fold, what, _THIS_MODEL)
    return factors


def _producer(
    model: nn.Module, fold: Fold, factors: Float32, weight: Tensor
) -> Iterator[list[_Scaled]]:
    """The weight and, beside it, its bias."""
    stacked, name = weight.ndim == 3, fold.producer
    beside = {name if stacked else f"{name}.weight": weight}
    bias_name = f"{name}_bias" if stacked else f"{name}.bias"
    bias = dict(model.named_parameters(remove_duplicate=False)).get(bias_name)
    if bias is not None:
        beside[bias_name] = bias.unsqueeze(-1)
    rows = np.reciprocal(fold.on_rows(factors, weight.shape[-2]))
    return _by_expert(beside, rows)


def _consumers(
    fold: Fold, factors: Float32, weights: Mapping[str, Tensor]
) -> Iterator[list[_Scaled]]:
    """The columns of each, a parameter at a time."""
    columns = fold.on_columns(factors)
    for name in fold.consumers:
        weight = weights[name].mT
        if columns.shape not in {weight.shape[:-1], weight.shape[-2:-1]}:
            what = f"{name} takes {weight.shape[-2]} channels, not {columns.shape[-1]}"
            raise _refusal(fold, what, _THIS_MODEL)
        yield from _by_expert({name if weight.ndim == 3 else f"{name}.weight": weight}, columns)


def _by_expert(beside: Mapping[str, Tensor], by: Float32) -> Iterator[list[_Scaled]]:
    """Matrices [..., channels, any] with their multipliers, [..., channels] or [channels]."""
    scaled = []
    for name, matrix in beside.items():
        values = matrix.detach()
        column = torch.from_numpy(by).to(values.device)[..., None].expand(*values.shape[:-1], 1)
        pairs = zip(values, column, strict=True) if values.ndim == 3 else [(values, column)]
        scaled.append([_Scaled(name, *pair) for pair in pairs])
    yield from map(list, zip(*scaled, strict=True))


def _refuse_shared(model: nn.Module, fold: Fold, touched: set[str]) -> None:
    """Refuse a parameter in whose memory another lies: the fold would change that one too."""
    spans = {n: _span(p) for n, p in model.named_parameters(remove_duplicate=False)}
    for name in sorted(touched):
        device, start, stop = spans[name]
        for other, (where, first, last) in spans.items():
            if other != name and where == device and first < stop and start < last:
                raise _refusal(fold, f"{name} shares its memory with {other}")


def _span(parameter: Tensor) -> tuple[torch.device, int, int]:
    """Device, first address and the one after the last; nothing where there are no values."""
    if parameter.is_meta or not parameter.numel():
        return parameter.device, 0, 0
    pairs = zip(parameter.shape, parameter.stride(), strict=True)
    reach = 1 + sum((size - 1) * stride for size, stride in pairs)
    start = parameter.data_ptr()
    return parameter.device, start, start + reach * parameter.itemsize


def _checked(fold: Fold, beside: list[_Scaled]) -> tuple[list[tuple[_Scaled, Tensor | None]], int]:
    """Each with what to keep for undoing it, and how many values dividing does not give back."""
    made, inexact = [], 0
    off = largest = torch.zeros(())
    for scaled in beside:
        values, new = scaled.values, scaled.folded()
        if broken := int((~new.isfinite()).sum()):
            what = f"{scaled.name} would hold {broken} inf or NaN in {_plain(values.dtype)}"
            raise _refusal(fold, what, _SMALLER)
        error = (scaled.taken_back(new) - values).abs()
        lost = int(error.count_nonzero())
        inexact += lost
        made.append((scaled, values.clone() if lost else None))
        off = torch.maximum(off, error.amax(1).float())
        largest = torch.maximum(largest, values.abs().amax(1).float())
    name, dtype = beside[0].name, beside[0].values.dtype
    if count := int((off > torch.finfo(dtype).eps * largest).sum()):
        what = f"{name} would be too small for {_plain(dtype)} in {count} of its channels"
        raise _refusal(fold, what, _SMALLER)
    return made, inexact


def _refusal(fold: Fold, what: str, remedy: str = _UNSMOOTHED) -> BadModel:
    return BadModel(f"smoothing cannot be folded into {fold.producer}: {what}", remedy)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
