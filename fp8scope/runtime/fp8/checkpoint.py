"""Load an FP8 checkpoint and run it in plain torch, with its own codes and scales.

Each linear keeps the scales that its own tensors have. Engines make the shards of a fused group
share one, at load: that is the same for what fp8scope builds, and not for what others do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fp8scope.checkpoint.identity import config_hash
from fp8scope.checkpoint.inventory import read_inventory
from fp8scope.core.modules import Treatment
from fp8scope.core.structure import Structure
from fp8scope.errors import Missing
from fp8scope.runtime.devices import check_device, to_device
from fp8scope.runtime.finite import refuse_nonfinite
from fp8scope.runtime.fp8.cache import Fp8Cache, Fp8StaticCache, KVScales
from fp8scope.runtime.fp8.kv_scales import kv_scales
from fp8scope.runtime.fp8.linear import Gemm
from fp8scope.runtime.fp8.metadata import fp8_metadata
from fp8scope.runtime.fp8.placing import Placing
from fp8scope.runtime.fp8.skeleton import skeleton
from fp8scope.runtime.fp8.tensors import TensorReader, sort_out
from fp8scope.runtime.loading import (
    LoadOptions,
    load_tokenizer,
    model_identity,
    needs_code,
    read_config,
    read_object,
)
from fp8scope.runtime.structure import discover

_FIRST_FP8 = (8, 9)  # Ada; then Hopper


@dataclass(frozen=True)
class Fp8Model:
    """A checkpoint that runs. `config` is config.json, `identity` as of any loaded model.

    treatments: every linear by its runtime name. kv_scales: by number of the layer, those whose
    cache is FP8.
    """

    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    identity: dict[str, Any]
    structure: Structure
    treatments: Mapping[str, Treatment]
    kv_scales: Mapping[int, KVScales]

    def cache(self) -> Fp8Cache | None:
        """An empty KV cache in FP8; None where the checkpoint keeps it in the model's dtype."""
        if not self.kv_scales:
            return None
        return Fp8Cache(self.kv_scales, self._model.config, self._model.device)

    def static_cache(self, length: int) -> Fp8StaticCache | None:
        """The same with room for `length` tokens from the start."""
        if not self.kv_scales:
            return None
        return Fp8StaticCache(self.kv_scales, self._model.config, length, self._model.device)

    @torch.no_grad()
    def logits(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of one pass over [B, T], through the FP8 cache where there is one."""
        cache = self.cache()
        ids = input_ids.to(self._model.device)
        output = self.model(input_ids=ids, use_cache=cache is not None, past_key_values=cache)
        logits: Tensor = output.logits
        return logits

    @property
    def _model(self) -> Any:
        return self.model


def load_fp8(
    folder: Path, *, gemm: Gemm = "scaled_mm", dtype: str | None = None, device: str = "cpu"
) -> Fp8Model:
    """Load a checkpoint of ModelOpt's, compressed-tensors' or transformers' own fp8 format.

    `dtype` of all that is not FP8; None takes the checkpoint's. `gemm`: see `Fp8Linear`. Inputs
    have the static scale of the checkpoint, or are scaled per token (per 128 channels of it beside
    block scales); K and V are rounded with the scales that are there.

    Raises BadModel, naming the tensor, for scales that are missing, superfluous, of a wrong shape,
    or no finite numbers, and for tensors that the model does not know or lacks; and for what is
    not FP8 W8A8, wants to run its own code, or has no tokenizer. Raises BadInput or Missing for a
    device that is not there, or has no FP8 GEMM.
    """
    check_device(device)
    _check_gemm(gemm, device)
    config = read_config(folder)
    needs_code(folder, config, LoadOptions())
    nested = folder / "hf_quant_config.json"
    metadata = fp8_metadata(folder, config, read_object(nested) if nested.exists() else None)
    inventory = read_inventory(folder)
    parts = sort_out(inventory, metadata)
    tokenizer = load_tokenizer(folder, LoadOptions(), code=False)
    with TensorReader(inventory) as reader:
        model = skeleton(folder, parts, reader, dtype)
        structure = discover(model, inventory.shapes())
        treatments = Placing(model, parts, reader, gemm).place(structure)
        scales = kv_scales(model, structure, parts, reader, expected=metadata.kv_cache)
    refuse_nonfinite(model)
    identity = model_identity(str(folder), model, config_hash(folder), inventory)
    model = to_device(model, device)
    return Fp8Model(model, tokenizer, config, identity, structure, treatments, scales)


def _check_gemm(gemm: Gemm, device: str) -> None:
    if gemm != "scaled_mm" or torch.device(device).type != "cuda":
        return
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _FIRST_FP8:
        what = f"{device} has no FP8 GEMM (compute capability {major}.{minor}, 8.9 is the first)"
        raise Missing(what, "use dequantized operands there, or another device")
