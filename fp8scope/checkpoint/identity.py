"""Hashes that say which model a profile, a plan or a checkpoint belongs to.

`config_hash` is the architecture; `weights_hash` tells a model from its fine-tunes. Both are
SHA-256, in hex.

What `weights_hash` covers: for every tensor in name order, the JSON list
[name, dtype, shape] in UTF-8, a newline, and the SHA-256 (32 bytes) of the tensor's sampled
bytes. A tensor of up to 64 KiB is sampled whole. Of a longer one: 4 KiB at the start, in the
middle and at the end, then 64 bytes at each of 16 places evenly spread over it. File names,
the order of tensors and metadata are not covered, so that sharding does not matter. A change
that misses every sample is not seen: training moves far too many values for that, but a
single edited value in a large tensor can hide.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

from fp8scope.checkpoint.header import TensorEntry
from fp8scope.checkpoint.inventory import Inventory
from fp8scope.errors import BadModel

WHOLE = 64 * 1024
WINDOW = 4 * 1024
SAMPLE = 64
SAMPLES = 16

# Written by whoever saved the model last; they do not change what it computes.
NOT_IDENTITY = ("transformers_version", "_name_or_path")


def config_hash(folder: Path) -> str:
    """SHA-256 of config.json as canonical JSON: sorted keys, no spaces, UTF-8.

    `transformers_version` and `_name_or_path` are left out at every depth.
    Raises BadModel if config.json is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadModel(f"{folder}: no config.json", "give a folder that holds a model") from error
    except OSError as error:
        raise BadModel(f"{path}: cannot be read ({error.strerror})", "check the file") from error
    except ValueError as error:
        raise BadModel(f"{path}: not JSON", "fetch the file again") from error
    if not isinstance(config, dict):
        raise BadModel(f"{path}: not a JSON object", "fetch the file again")
    text = json.dumps(
        _identity_of(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(inventory: Inventory) -> str:
    """SHA-256 over names, dtypes, shapes and sampled bytes of all tensors (module docstring).

    Reads at most 64 KiB per tensor. Raises BadModel if a file cannot be read, or is no longer
    as long as the inventory says.
    """
    by_file: dict[str, list[TensorEntry]] = defaultdict(list)
    for tensor in inventory.tensors:
        by_file[tensor.file].append(tensor)
    samples: dict[str, bytes] = {}
    for name, tensors in by_file.items():
        path = inventory.folder / name
        try:
            with path.open("rb") as file:
                samples.update((tensor.name, _sampled(file, tensor)) for tensor in tensors)
        except OSError as error:
            what = f"{path}: cannot be read ({error.strerror})"
            raise BadModel(what, "check the file") from error
    digest = hashlib.sha256()
    for tensor in sorted(inventory.tensors, key=lambda tensor: tensor.name):
        head = json.dumps([tensor.name, tensor.dtype, list(tensor.shape)], ensure_ascii=False)
        digest.update(head.encode() + b"\n" + samples[tensor.name])
    return digest.hexdigest()


def _identity_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _identity_of(item) for k, item in value.items() if k not in NOT_IDENTITY}
    return [_identity_of(item) for item in value] if isinstance(value, list) else value


def sampled_ranges(nbytes: int) -> list[tuple[int, int]]:
    """Half-open byte ranges of a tensor of `nbytes` bytes that its hash covers, in order."""
    if nbytes <= WHOLE:
        return [(0, nbytes)]
    windows = (0, (nbytes - WINDOW) // 2, nbytes - WINDOW)
    strided = (place * (nbytes - SAMPLE) // (SAMPLES + 1) for place in range(1, SAMPLES + 1))
    return [(at, at + WINDOW) for at in windows] + [(at, at + SAMPLE) for at in strided]


def _sampled(file: BinaryIO, tensor: TensorEntry) -> bytes:
    digest = hashlib.sha256()
    for start, stop in sampled_ranges(tensor.nbytes):
        file.seek(tensor.start + start)
        data = file.read(stop - start)
        if len(data) != stop - start:
            what = f"{tensor.file}: shorter than a moment ago, {tensor.name} is cut off"
            raise BadModel(what, "wait until the file is complete and try again")
        digest.update(data)
    return digest.digest()
