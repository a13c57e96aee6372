"""How TensorRT-LLM's PyTorch backend matches names of modules against lists.

`QuantConfig.is_module_excluded_from_quantization` in the three forms that its sources had: whole
names only, up to 1.2; since May 2026 (1.3.0rc, pull request 13844) also any parent, and `re:`; on
its main branch of September 2026 `x.*` is `x` itself, too. Not held against a released 1.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from fp8scope.export.consumer import Layer

WHOLE, PARENTS, SUBTREES = "1.2", "1.3.0rc", "1.3"
VERSIONS = (WHOLE, PARENTS, SUBTREES)


def is_excluded(name: str, entries: Sequence[str], version: str) -> bool:
    """Whether an entry excludes the name. Raises re.error."""
    if version == WHOLE:
        return any(fnmatchcase(name, entry) for entry in entries)
    return any(
        _excludes(candidate, entry, version) for candidate in _lineage(name) for entry in entries
    )


def _lineage(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 0, -1))


def _excludes(candidate: str, entry: str, version: str) -> bool:
    if entry.startswith("re:"):
        return bool(re.fullmatch(entry[3:], candidate))
    if fnmatchcase(candidate, entry):
        return True
    return version == SUBTREES and entry.endswith(".*") and fnmatchcase(candidate, entry[:-2])


def candidates(layer: Layer) -> tuple[str, ...]:
    """Names any one of which excludes the layer: its own, and but for experts its shards'."""
    return (layer.name,) if layer.kind == "experts" else (layer.name, *layer.shards)


def takes(layer: Layer, key: str) -> bool:
    """Whether the layer takes its algorithm from this key of `quantized_layers`.

    Fused layers ask for one shard, as a part of the key; experts for any key that they are a part
    of; all others for the key itself.
    """
    if layer.kind == "experts":
        return layer.name in key
    parent, _, last = layer.name.rpartition(".")
    if last == "gate_up_proj":
        return f"{parent}.gate_proj" in key or layer.name in key
    if last == "qkv_proj":
        return f"{parent}.q_proj" in key
    return layer.name == key


def is_target(name: str, target: str) -> bool:
    """Whether a target or an ignored entry of a compressed-tensors config of several groups is the
    name. Raises re.error.
    """
    if target.startswith("re:"):
        return bool(re.match(target[3:], name))
    return target == name
