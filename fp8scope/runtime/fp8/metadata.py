"""What the metadata of a checkpoint says of it as a whole; its tensors say the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fp8scope.checkpoint.schemes import algorithm, scheme, strategy
from fp8scope.core.modules import Treatment
from fp8scope.errors import BadModel

_KNOWN = "modelopt, compressed-tensors and fp8 are run here"


@dataclass(frozen=True)
class Fp8Metadata:
    """`treatments`: those that some linear is said to be in. `kv_cache`: whether K and V are
    said to be kept in FP8.
    """

    method: str
    treatments: frozenset[Treatment]
    kv_cache: bool


def fp8_metadata(
    folder: Path, config: Mapping[str, Any], nested: Mapping[str, Any] | None
) -> Fp8Metadata:
    """From config.json and hf_quant_config.json (`nested`, None without one).

    Of the two, `quantization_config` of config.json is believed, as vLLM does. Raises BadModel
    where nothing is quantized, or in a way that is not run here.
    """
    said = config.get("quantization_config")
    if not isinstance(said, Mapping):
        inner = (nested or {}).get("quantization")
        if not isinstance(inner, Mapping):
            raise BadModel(f"{folder} is not quantized", "give an FP8 checkpoint")
        said = {"quant_method": "modelopt", **inner}
    if isinstance(said.get("quantization"), Mapping):  # nested in config.json, as of old
        said = {"quant_method": "modelopt", **said["quantization"]}
    method = str(said.get("quant_method", "unknown"))
    method = "modelopt" if method.startswith("modelopt") else method
    reader = {"modelopt": _modelopt, "compressed-tensors": _compressed, "fp8": _fp8}.get(method)
    if reader is None:
        raise BadModel(f"{folder} is quantized by {method}", _KNOWN)
    treatments = frozenset(reader(folder, said))
    if "other" in treatments:
        raise BadModel(
            f"{folder} holds linears in another quantization than FP8 W8A8 ({method})",
            "FP8 per tensor, per token and per 128 x 128 block are run here",
        )
    return Fp8Metadata(method, treatments, _fp8_cache(folder, said))


def _modelopt(folder: Path, said: Mapping[str, Any]) -> Iterator[Treatment]:
    layers = said.get("quantized_layers")
    if not isinstance(layers, Mapping):
        yield algorithm(str(said.get("quant_algo")))
        return
    for name, row in layers.items():
        if not isinstance(row, Mapping):
            raise BadModel(f"{folder}: quantized_layers says nothing of {name}", "restore it")
        yield algorithm(str(row.get("quant_algo")))


def _compressed(folder: Path, said: Mapping[str, Any]) -> Iterator[Treatment]:
    groups = said.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(g, Mapping) for g in groups.values()):
        raise BadModel(f"{folder}: quantization_config has no config_groups", "restore it")
    for name, group in groups.items():
        inputs = group.get("input_activations")
        if inputs is not None and inputs.get("dynamic") and strategy(inputs) == "tensor":
            what = f"{folder}: {name} makes one input scale for all tokens of a pass"
            raise BadModel(what, "dynamic scales per token and per 128 channels are run here")
        yield scheme(group.get("weights"), inputs)


def _fp8(_: Path, said: Mapping[str, Any]) -> Iterator[Treatment]:
    blocks = said.get("weight_block_size")
    if said.get("activation_scheme") == "static":
        yield "fp8_tensor"
    elif blocks is None:
        yield "fp8_tensor_dynamic"
    else:
        yield "fp8_block" if list(blocks) == [128, 128] else "other"


def _fp8_cache(folder: Path, said: Mapping[str, Any]) -> bool:
    cache = said.get("kv_cache_quant_algo") or said.get("kv_cache_scheme")
    if not cache:
        return False
    if isinstance(cache, Mapping):
        plain = (cache.get("type"), cache.get("num_bits"), cache.get("dynamic", False))
        if plain == ("float", 8, False):
            return True
    elif str(cache).upper() in {"FP8", "STATIC"}:
        return True
    raise BadModel(f"{folder}: its KV cache is quantized as {cache}", "static FP8 is run here")
