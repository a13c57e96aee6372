"""A model's tensors under the names of its own files, and safetensors shards of any tensors.

Transformers 5 merges and renames on loading (`…mlp.experts.gate_up_proj` is made of the files'
`…block_sparse_moe.experts.3.w1`); here its own conversion is taken back, a block at a time, so that
no second copy of a model is held.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from fp8scope.artefacts.atomic import write_atomically
from fp8scope.artefacts.plan import Plan
from fp8scope.errors import CannotWrite

SHARD_BYTES = 5_000_000_000  # the hub's own
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_BLOCK = re.compile(r".*?\.\d+\.")
_NUMBER = re.compile(r"(?:os error|Errno) (\d+)")


def file_tensors(
    model: nn.Module, beside: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, by the name under which transformers saves it; tied weights once.

    Most are views of the model's own memory; what must be copied is, a block at a time. `beside`:
    tensors by runtime names which the model has not (scales of the KV cache), written as if it had.
    """
    for block in _blocks({**_state(model), **(beside or {})}):
        yield from _reverted(model, block).items()


def file_shapes(
    model: nn.Module, beside: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each of `file_tensors`, at no cost."""
    state = {**_state(model), **(beside or {})}
    empty = {name: tensor.to("meta") for name, tensor in state.items()}
    return {
        name: tuple(tensor.shape)
        for block in _blocks(empty)
        for name, tensor in _reverted(model, block).items()
    }


def with_saved_names(plan: Plan, model: nn.Module) -> Plan:
    """The plan, with every linear by the name that `file_tensors` gives its weight.

    Another than in the files that the model came from where those lack the base model's prefix
    (OPT's and GPT-2's own do): transformers puts it on when it saves, and finds no module of a
    `quantization_config` without it.
    """
    shapes = file_shapes(model)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def saved(name: str) -> str:
        spellings = (name, f"{prefix}{name}", name.removeprefix(prefix))
        return next((each for each in spellings if each.format(0) in shapes), name)

    modules = [
        module.model_copy(
            update={
                "checkpoint_weight": module.checkpoint_weight and saved(module.checkpoint_weight),
                "checkpoint_shards": tuple(map(saved, module.checkpoint_shards)),
            }
        )
        for module in plan.modules
    ]
    return plan.model_copy(update={"modules": tuple(modules)})


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], max_bytes: int = SHARD_BYTES
) -> None:
    """Write `tensors` into `folder`, which exists: as one file, or as shards with their index.

    At most `max_bytes` each, unless one tensor alone has more, and no more than that in memory. A
    name that comes twice is a ValueError. Raises CannotWrite.
    """
    names: list[list[str]] = []
    total = 0
    for shard in _shards(tensors, max_bytes):
        _write(shard, _part(folder, len(names)), total)
        names.append(list(shard))
        total += _bytes(shard)
    if len(names) == 1:
        _part(folder, 0).replace(folder / SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, own in enumerate(names):
        file = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        _part(folder, number).replace(folder / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_atomically(folder / INDEX, (json.dumps(index, indent=2) + "\n").encode())


def _state(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = dict(model.state_dict())
    if not isinstance(model, PreTrainedModel):
        return state
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    untied: dict[str, Tensor] = remove_tied_weights_from_state_dict(state, model)
    return untied


def _blocks(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors of the same numbered block; what lies outside of all blocks comes first."""
    blocks: dict[str, dict[str, Tensor]] = {"": {}}
    for name, tensor in state.items():
        found = _BLOCK.match(name)
        blocks.setdefault(found[0] if found else "", {})[name] = tensor
    yield from blocks.values()


def _reverted(model: nn.Module, block: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(model, PreTrainedModel):
        return block
    reverted: dict[str, Tensor] = revert_weight_conversion(model, block)
    return reverted


def _shards(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    seen: set[str] = set()
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if name in seen:
            raise ValueError(f"two tensors are called {name}")
        seen.add(name)
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    yield shard


def _part(folder: Path, number: int) -> Path:
    """Where a shard lies until it is known how many there are."""
    return folder / f".model-{number + 1:05d}.part"


def _write(shard: dict[str, Tensor], path: Path, before: int) -> None:
    try:
        path.touch()
        mode = path.stat().st_mode  # safetensors would leave it to its owner alone
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(mode)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        number = _NUMBER.search(str(error))
        why = os.strerror(int(number[1])) if number else str(error)
        sizes = f"{_megabytes(_bytes(shard))} into {path.parent}, with {_megabytes(before)}"
        raise CannotWrite(
            f"cannot write {sizes} written before: {why}",
            "make room there, or choose another place",
        ) from error


def _bytes(shard: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in shard.values())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
