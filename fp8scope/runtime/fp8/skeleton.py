"""The model of an FP8 checkpoint with all of its weights but those in FP8.

transformers builds it and loads all that is not FP8, under its own renamings and mergers. In place
of each FP8 weight it is given zeros of that shape without memory of their own, so that it also says
which tensors are missing and which the model does not know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from fp8scope.errors import BadModel, one_line
from fp8scope.runtime.fp8.tensors import REBUILD, Parts, TensorReader
from fp8scope.runtime.loading import DTYPES

_SAID = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def skeleton(folder: Path, parts: Parts, reader: TensorReader, dtype: str | None) -> nn.Module:
    """The model on the CPU, zeros in place of the FP8 weights.

    Raises BadModel where transformers cannot build it, and for tensors missing or unexpected.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # a foreign config can fail anywhere inside transformers
        raise _refusal(folder, error) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    runs_in = DTYPES[dtype] if dtype else _own_dtype(config, parts)
    state = {tensor.name: reader.read(tensor.name) for tensor in parts.rest}
    for weight in parts.weights.values():
        # each its own scalar: what shares memory counts as tied
        state[weight.name] = torch.zeros((), dtype=runs_in).expand(weight.shape)
    auto: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):  # only to ask which class and which of its configs
            described = auto.from_config(config)
        model, info = type(described).from_pretrained(
            None,
            config=described.config,
            state_dict=state,
            dtype=runs_in,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except Exception as error:
        raise _refusal(folder, error) from error
    _refuse_unlike(folder, info)
    skeleton: nn.Module = model.eval()
    return skeleton


def left_out(model: nn.Module, name: str) -> bool:
    """Whether the class of the model passes over this tensor of its files (the layers of MTP)."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _own_dtype(config: Any, parts: Parts) -> torch.dtype:
    said = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(said, torch.dtype) and said in _SAID.values():
        return said
    held = [_SAID[tensor.dtype] for tensor in parts.rest if tensor.dtype in _SAID]
    return max(held, key=held.count, default=torch.bfloat16)


def _refuse_unlike(folder: Path, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        what = f"{len(missing)} tensors of the model are not in {folder}, e.g. {missing[0]}"
        raise BadModel(what, REBUILD)
    unlike = sorted(str(row[0]) for row in info.get("mismatched_keys", ()))
    if unlike:
        what = f"{len(unlike)} tensors in {folder} have another shape than config.json says"
        raise BadModel(f"{what}, e.g. {unlike[0]}", REBUILD)
    unexpected = sorted(info.get("unexpected_keys", ()))
    if unexpected:
        what = f"{len(unexpected)} tensors in {folder} are unknown to the model"
        raise BadModel(f"{what}, e.g. {unexpected[0]}", REBUILD)


def _refusal(folder: Path, error: Exception) -> BadModel:
    what = f"transformers cannot build the model of {folder}: {one_line(error, 200)}"
    return BadModel(what, "check that the folder is complete")
