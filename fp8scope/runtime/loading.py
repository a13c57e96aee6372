"""Load a causal language model and its tokenizer, and refuse what is unsafe or not BF16-like."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fp8scope.checkpoint.identity import config_hash, weights_hash
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.errors import BadModel, one_line
from fp8scope.runtime.devices import check_device, to_device
from fp8scope.runtime.finite import refuse_nonfinite
from fp8scope.runtime.folders import model_folder

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class LoadOptions:
    """`dtype` None keeps the checkpoint's; the two flags allow code from the model's folder
    and pickled weights, both of which can run anything on this machine.
    """

    dtype: str | None = None
    device: str = "cpu"
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A model from `folder`, ready to run. `identity` is what a profile's `model` group holds."""

    folder: Path
    model: nn.Module
    tokenizer: Any
    config: dict[str, Any]
    identity: dict[str, Any]
    tensor_shapes: dict[str, tuple[int, ...]] | None


def load(reference: str, options: LoadOptions) -> LoadedModel:
    """Load a folder or a hub id.

    Raises BadModel (no such folder, no weights or tokenizer, pickled weights, remote code,
    already quantized, checkpoint incomplete, inf or NaN in it), BadInput (no such device) or
    Missing (the hub cannot be reached, the device is not on this machine).
    """
    check_device(options.device)
    folder = model_folder(reference, code=options.trust_remote_code, pickles=options.allow_pickle)
    config = read_config(folder)
    code = needs_code(folder, config, options)
    _refuse_quantized(folder, config)
    inventory = None if _pickled(folder, options) else read_inventory(folder)
    tokenizer = load_tokenizer(folder, options, code)
    model = _load_weights(folder, options, code)
    refuse_nonfinite(model, inventory)
    return LoadedModel(
        folder,
        model,
        tokenizer,
        config,
        model_identity(reference, model, config_hash(folder), inventory),
        dict(inventory.shapes()) if inventory else None,
    )


def model_identity(
    name: str, model: nn.Module, config_digest: str, inventory: Inventory | None
) -> dict[str, Any]:
    """Name, architecture, hashes and size, as plain values."""
    config = getattr(model, "config", None)
    return {
        "name": name,
        "architecture": type(model).__name__,
        "model_type": str(getattr(config, "model_type", "")),
        "config_hash": config_digest,
        "weights_hash": weights_hash(inventory) if inventory else memory_hash(model),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def memory_hash(model: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and sampled bytes of a model's parameters in memory.

    It identifies the same weights again, but differs from the hash of the files.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        step = max(1, flat.numel() // 4096)
        digest.update(flat[::step].contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return f"memory:{digest.hexdigest()}"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises BadModel where there is none, or no JSON object."""
    if not (folder / "config.json").exists():
        raise BadModel(f"{folder} has no config.json", "give a model folder")
    return read_object(folder / "config.json")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BadModel."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadModel(f"cannot read {path}: {error}", "restore the file") from None
    if not isinstance(found, dict):
        raise BadModel(f"{path} is not a JSON object", "restore the file")
    return found


def needs_code(folder: Path, config: dict[str, Any], options: LoadOptions) -> bool:
    """Whether the model is code of its folder's, and allowed to run.

    Many folders name such code (auto_map) for releases of transformers that did not have the
    model yet. The class of transformers is taken wherever there is one: it runs nothing foreign,
    and its structure is known.
    """
    if not config.get("auto_map") or _is_native(config):
        return False
    if not options.trust_remote_code:
        raise BadModel(
            f"{folder} wants to run its own code (auto_map in config.json), and transformers "
            f"has no {config.get('model_type', 'such')} model",
            "read that code, then allow it with --trust-remote-code",
        )
    return True


def _is_native(config: dict[str, Any]) -> bool:
    return config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _refuse_quantized(folder: Path, config: dict[str, Any]) -> None:
    quantized = config.get("quantization_config")
    if quantized or (folder / "hf_quant_config.json").exists():
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else ""
        raise BadModel(
            f"{folder} is already quantized ({method or 'hf_quant_config.json'})",
            "scan the BF16, FP16 or FP32 model that it was made from",
        )


def _pickled(folder: Path, options: LoadOptions) -> bool:
    """Are the weights pickles, and allowed to be?"""
    return options.allow_pickle and not any(folder.glob("*.safetensors"))


def load_tokenizer(folder: Path, options: LoadOptions, code: bool) -> Any:
    """The tokenizer in the folder; `code`: whether the model's own code is allowed to run.

    Raises BadModel where none loads, or one wants to run code that is not allowed.
    """
    path = folder / "tokenizer_config.json"
    own = bool(path.exists() and read_object(path).get("auto_map"))
    # Trust says yes to the configuration's code as well: only where one of the two is wanted.
    trust = options.trust_remote_code and (own or code)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:  # tokenizers raise whatever they like on foreign files
        if own and not trust:
            raise BadModel(
                f"the tokenizer of {folder} wants to run its own code (auto_map in {path.name})",
                "read that code, then allow it with --trust-remote-code",
            ) from error
        raise BadModel(
            f"{folder} has no tokenizer that loads ({one_line(error)})",
            "copy tokenizer.json and tokenizer_config.json of the model there",
        ) from error


def _load_weights(folder: Path, options: LoadOptions, code: bool) -> nn.Module:
    loader: Any = AutoModelForCausalLM  # typed as if output_loading_info did not exist
    try:
        model, info = loader.from_pretrained(
            folder,
            dtype=DTYPES[options.dtype] if options.dtype else "auto",
            trust_remote_code=code,
            use_safetensors=not _pickled(folder, options),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    except Exception as error:  # a foreign config or file can fail anywhere inside transformers
        raise BadModel(
            f"transformers cannot load {folder}: {one_line(error, 200)}",
            "check that the folder is complete",
        ) from error
    _refuse_incomplete(folder, info)
    return to_device(model.eval(), options.device)


def _refuse_incomplete(folder: Path, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ())) + sorted(
        str(row[0]) for row in info.get("mismatched_keys", ())
    )
    if missing:
        raise BadModel(
            f"{len(missing)} tensors of the model are not in {folder} or have another shape, "
            f"e.g. {missing[0]}: they would be random",
            "restore the checkpoint",
        )


def context_length(model: nn.Module) -> int | None:
    """Longest sequence the model takes (max_position_embeddings), None if it states none."""
    found = getattr(_text_config(model), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def vocabulary_size(model: nn.Module) -> int | None:
    """Rows of the embedding, None if the config states none."""
    found = getattr(_text_config(model), "vocab_size", None)
    return found if isinstance(found, int) and found > 0 else None


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config
