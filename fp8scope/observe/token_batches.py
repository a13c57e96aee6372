"""Token batches as a caller of `scan` gives them, checked, and turned into a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fp8scope.errors import BadText, one_line
from fp8scope.runtime.loading import context_length, vocabulary_size
from fp8scope.runtime.text import Calibration, calibration_of_tokens

Ids = Tensor | Sequence[Sequence[int]]
BatchLike = Ids | Mapping[str, Any]


def calibration_of_batches(batches: Iterable[BatchLike], model: nn.Module) -> Calibration:
    """Every row of every batch as a sample, in the given order.

    Raises BadText, naming the batch by its place from 0, for whatever is not [B, T] token ids
    that `model` takes, with a mask (if any) of padding on the right.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise BadText(f"batches is one {type(batches).__name__}", "give a list of batches")
    tags: list[str] = []
    tokens: list[np.ndarray[Any, Any]] = []
    for place, batch in enumerate(batches):
        fields = batch if isinstance(batch, Mapping) else {"input_ids": batch}
        where = f"batch {place}"
        ids = _integers(fields.get("input_ids"), where)
        _check_range(ids, model, where)
        rows = _without_padding(ids, fields.get("attention_mask"), where)
        tokens += [row.cpu().numpy().astype(np.int32) for row in rows]
        tags += [_tag(fields.get("tag", "text"), where)] * len(rows)
    _check_lengths(tokens, context_length(model))
    return calibration_of_tokens(tags, tokens)


def _tensor(value: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadText(
            f"{what} cannot be made a tensor ({one_line(error, 80)})",
            "give a [B, T] tensor of integers, or lists of one length",
        ) from error


def _integers(ids: Any, where: str) -> Tensor:
    found = _tensor(ids, f"the token ids of {where}")
    dtype = str(found.dtype).removeprefix("torch.")
    if found.dim() != 2 or not dtype.startswith(("int", "uint")):
        raise BadText(
            f"{where} is {dtype} {list(found.shape)}, not token ids [B, T]",
            "give a tensor of integers with a row per sequence",
        )
    return found


def _check_range(ids: Tensor, model: nn.Module, where: str) -> None:
    size = vocabulary_size(model)
    if ids.numel() == 0:
        raise BadText(f"{where} is without tokens", "give sequences of 1 token or more")
    least, most = (int(end) for end in torch.aminmax(ids))
    if least < 0 or (size is not None and most >= size):
        wrong = least if least < 0 else most
        raise BadText(
            f"{where} holds token id {wrong}, and the model has {size} tokens",
            "take the tokenizer that came with the model",
        )


def _without_padding(ids: Tensor, mask: Any, where: str) -> list[Tensor]:
    if mask is None:
        return list(ids)
    mask = _tensor(mask, f"the mask of {where}").bool().to(ids.device)
    if mask.shape != ids.shape:
        raise BadText(
            f"{where} has ids {list(ids.shape)} and a mask {list(mask.shape)}",
            "give a mask of the shape of the ids",
        )
    lengths = mask.sum(1)
    if not torch.equal(mask, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]):
        raise BadText(
            f"{where} is padded on the left, or its mask has holes",
            "pad on the right (padding_side='right')",
        )
    return [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]


def _tag(tag: Any, where: str) -> str:
    if not isinstance(tag, str) or not tag.strip() or not tag.isprintable():
        raise BadText(f"the tag of {where} is {tag!r}", "give one printable string for the batch")
    return tag


def _check_lengths(tokens: Sequence[np.ndarray[Any, Any]], context: int | None) -> None:
    longest = max(map(len, tokens), default=0)
    if context is not None and longest > context:
        raise BadText(
            f"a sequence has {longest} tokens, and the model takes {context}",
            "cut the sequences to what the model takes",
        )
