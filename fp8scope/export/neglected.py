"""What a config says and its consumer passes over, and what it says of the KV cache.

These faults lie outside of what a `Reading` answers for: entries that are no expression, keys that
nobody reads, a list where this consumer does not look, and a config that quantizes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from fp8scope.core.modules import KVCache, Model
from fp8scope.core.selection import REGEX
from fp8scope.export.consumer import Config, Reading
from fp8scope.export.faults import Fault, Row
from fp8scope.export.intent import EXCLUSIONS

_WORDS = {"bf16": "BF16", "fp8": "FP8"}


def neglected(config: Config, reading: Reading) -> Iterator[Fault]:
    """Faults of what `reading` made of `config`, beside those of its lists."""
    for pattern in reading.patterns:
        if wrong := _wrong_expression(pattern.text):
            said = f"{pattern.where} “{pattern.text}” is no regular expression ({wrong})"
            yield Fault("refused", said, (), (pattern,))
    read = {pattern.text for pattern in reading.patterns}
    for key, value in _pairs(config.data):
        if key in EXCLUSIONS:
            entries = [each for each in value if isinstance(each, str)] if _is_list(value) else []
            if entries and not read & set(entries):
                yield Fault("nothing", f"{key} is not read here, so what it names is not excluded")
        elif _is_list(value) and (close := get_close_matches(key, EXCLUSIONS, 1, cutoff=0.85)):
            yield Fault("nothing", f"{key} is read by nobody; there is {close[0]}")


def idle_faults(config: Config, reading: Reading, rows: tuple[Row, ...]) -> Iterator[Fault]:
    """One where nothing is quantized, though the config is there for it."""
    treatments = {row.outcome.treatment for row in rows}
    if treatments == {"bf16"} and _asks_for_fp8(config, reading):
        yield Fault("different", "nothing is quantized: every layer stays in BF16")


def cache_faults(config: Config, model: Model) -> Iterator[Fault]:
    """One where the config asks for another KV cache than the model should have."""
    says = cache_of(config)
    if says is not None and model.kv_cache not in {"mixed", says}:
        what = f"the KV cache will be in {_WORDS[says]} and should be {_WORDS[model.kv_cache]}"
        yield Fault("different", what)


def cache_of(config: Config) -> KVCache | None:
    """What the config makes of the KV cache; None where it is no matter of such a config."""
    data = config.data
    match config.form:
        case "hf-quant-config":
            inner = data.get("quantization")
            said = inner if isinstance(inner, Mapping) else data
            return _fp8(said.get("kv_cache_quant_algo") or said.get("kv_cache_scheme"))
        case "compressed-tensors":
            return _fp8(data.get("kv_cache_scheme"))
        case "llm-compressor":
            return _fp8(any(value for key, value in _pairs(data) if key == "kv_cache_scheme"))
        case "modelopt":
            entries = [each for each in _flat(data.get("quant_cfg")) if "bmm_quantizer" in each[0]]
            return _fp8(bool(entries) and entries[-1][1])
    return None


def _wrong_expression(text: str) -> str:
    """What is wrong with an entry that begins with `re:`; empty where nothing is."""
    if text.startswith(REGEX):
        try:
            re.compile(text.removeprefix(REGEX))
        except re.error as error:
            return str(error)
    return ""


def _fp8(said: object) -> KVCache:
    return "fp8" if said else "bf16"


def _flat(quant_cfg: Any) -> list[tuple[str, bool]]:
    """Names of quantizers in ModelOpt's order, and whether an entry enables them."""
    if isinstance(quant_cfg, Mapping):
        pairs = [(str(name), entry) for name, entry in quant_cfg.items()]
    else:
        pairs = [(str(e.get("quantizer_name", "")), e) for e in quant_cfg or () if _is_map(e)]
    return [(name, not _is_map(e) or e.get("enable", True) is not False) for name, e in pairs]


def _asks_for_fp8(config: Config, reading: Reading) -> bool:
    """Some entry asks for it, or the form is one that has no other use."""
    recipes = {"modelopt", "llm-compressor", "hf-quant-config", "compressed-tensors", "fp8"}
    return config.form in recipes or any(each.says != "bf16" for each in reading.patterns)


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key and its value, at any depth."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield str(key), value
            yield from _pairs(value)
    elif isinstance(data, list):
        for each in data:
            yield from _pairs(each)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)
