"""The tensors of an FP8 checkpoint as compressed-tensors makes them, and what config.json says.

Codes and scales are the library's own; which scale is whose is the plan's. Shapes are those that
its loader makes room for: [1] per tensor, [out, 1] per channel, [rows, columns] of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fp8scope.artefacts.plan import Cache, Plan
from fp8scope.build.files import (
    SHARD_BYTES,
    file_shapes,
    file_tensors,
    with_saved_names,
    write_shards,
)
from fp8scope.build.scales import Static, in_files
from fp8scope.checkpoint.planned import planned_model
from fp8scope.checkpoint.schemes import SCHEMES
from fp8scope.core.modules import Module
from fp8scope.errors import BadInput, Missing, Stale
from fp8scope.export.checking import export_plan

Progress = Callable[[int, int], None]


def write_compressed(
    model: nn.Module,
    plan: Plan,
    static: Mapping[str, tuple[Static, ...]],
    folder: Path,
    progress: Progress = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write the tensors of the planned checkpoint into `folder`, which exists.

    `model` has its smoothing folded; `static` as `static_scales` gives it; `progress` gets how many
    of the FP8 linears are done. Returns the `quantization_config` for config.json. Raises Missing
    without the library; BadInput for what it cannot express; Stale where the model is not the
    plan's; CannotWrite.
    """
    library = _Library()
    plan = with_saved_names(plan, model)
    config: dict[str, Any] = export_plan(plan, "compressed-tensors").config
    library.check(config)
    caches = _cache_scales(plan)
    linears = _in_fp8(plan, static)
    _check(linears, file_shapes(model, caches))
    tensors = _quantized(file_tensors(model, caches), linears, library, progress)
    write_shards(folder, tensors, shard_bytes)
    return config


class _Library:
    """What is used of compressed-tensors."""

    def __init__(self) -> None:
        try:
            from compressed_tensors.compressors import FloatQuantizationCompressor
            from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
            from compressed_tensors.quantization.utils import calculate_qparams
        except ImportError as error:
            raise Missing(
                f"compressed-tensors cannot be imported ({error})",
                "pip install 'fp8scope[compressed-tensors]'",
            ) from error
        self._compressor: Any = FloatQuantizationCompressor
        self._config: Any = QuantizationConfig
        self._scale_of: Any = calculate_qparams
        self._schemes: dict[str, Any] = {
            treatment: QuantizationScheme(targets=[], **arguments)
            for treatment, arguments in SCHEMES.items()
        }

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError (pydantic's) for a config that the library would not take."""
        self._config.model_validate(config)

    def scale(self, amax: Tensor, treatment: str) -> Tensor:
        """Largest |W| by 448, any shape, float32; the library's smallest where all is zero."""
        scale: Tensor = self._scale_of(-amax, amax, self._schemes[treatment].weights)[0]
        return scale

    def codes(self, weight: Tensor, scale: Tensor, treatment: str) -> Tensor:
        """E4M3 codes of `weight` [out, in]."""
        state = {"weight": weight, "weight_scale": scale}
        codes: Tensor = self._compressor.compress(state, self._schemes[treatment])["weight"]
        return codes


@dataclass(frozen=True)
class _Linear:
    """One linear of the files in FP8, and its static scales if it has such."""

    module: Module
    static: Static | None

    def tensors(self, weight: Tensor, library: _Library) -> Iterator[tuple[str, Tensor]]:
        name, treatment = self.module.name, self.module.wanted or "other"
        scale = self._scale(weight, library)
        yield f"{name}.weight", library.codes(weight, scale, treatment)
        yield f"{name}.weight_scale", scale
        if self.static is not None:
            yield f"{name}.input_scale", _one(self.static.input)

    def _scale(self, weight: Tensor, library: _Library) -> Tensor:
        if self.static is not None:
            return _one(self.static.weight).to(weight.device)
        treatment = self.module.wanted or "other"
        rows, columns = (
            SCHEMES[treatment]["weights"]["block_structure"]
            if treatment == "fp8_block"
            else (1, weight.shape[1])
        )
        return library.scale(_tile_amax(weight, rows, columns), treatment)


def _in_fp8(plan: Plan, static: Mapping[str, tuple[Static, ...]]) -> dict[str, _Linear]:
    """By the name of its weight in the files."""
    scales = in_files(plan, static)
    return {
        f"{module.name}.weight": _Linear(
            module, scales[module.name] if module.wanted == "fp8_tensor" else None
        )
        for module in planned_model(plan).modules
        if module.wanted not in {None, "bf16"}
    }


def _check(linears: Mapping[str, _Linear], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses at once what would otherwise go wrong in the middle of writing."""
    for name, linear in linears.items():
        module = linear.module
        expected = (module.out_features, module.in_features)
        if (found := shapes.get(name)) != expected:
            has = f"has {list(found)} there" if found else "has not"
            what = f"the plan wants {name} {list(expected)} in FP8, which the model {has}"
            raise Stale(what, "plan this very model")


def _quantized(
    tensors: Iterator[tuple[str, Tensor]],
    linears: Mapping[str, _Linear],
    library: _Library,
    progress: Progress,
) -> Iterator[tuple[str, Tensor]]:
    done = 0
    progress(done, len(linears))
    for name, tensor in tensors:
        if name not in linears:
            yield name, tensor
            continue
        yield from linears[name].tensors(tensor, library)
        done += 1
        progress(done, len(linears))


def _tile_amax(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Largest |W| of each tile, [out / rows, in / columns] float32; those at the edge are cut."""
    down, right = -weight.shape[0] % rows, -weight.shape[1] % columns
    if down or right:
        weight = nn.functional.pad(weight, (0, right, 0, down))
    tiles = weight.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    amax: Tensor = tiles.abs().amax(dim=(1, 3)).float()
    return amax


def _cache_scales(plan: Plan) -> dict[str, Tensor]:
    """By runtime names. The library makes room for both; a latent is the values as well."""
    found = {}
    for cache in plan.kv_cache:
        if cache.precision == "fp8":
            keys, values = _scales_of(cache)
            found[f"{cache.attention}.k_scale"] = _one(keys)
            found[f"{cache.attention}.v_scale"] = _one(values)
    return found


def _scales_of(cache: Cache) -> tuple[float, float]:
    if cache.k_scale is None:
        raise BadInput(f"the plan has no scale of the KV cache {cache.name}", "make it anew")
    return cache.k_scale, cache.k_scale if cache.v_scale is None else cache.v_scale


def _one(scale: float) -> Tensor:
    return torch.tensor([scale], dtype=torch.float32)
