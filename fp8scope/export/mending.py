"""Somebody's config with its list of exclusions replaced by exact names, and all else as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import yaml

from fp8scope.core.modules import Model
from fp8scope.export.consumer import Config, Document, DocumentKind, Form, Reading
from fp8scope.export.intent import EXCLUSIONS

# where a form without a list would have it
_KEYS = {
    "compressed-tensors": "ignore",
    "fp8": "ignored_layers",
    "transformers": "modules_to_not_convert",
    "vllm": "ignore",
}
_KINDS: dict[str, DocumentKind] = {
    "compressed-tensors": "metadata",
    "fp8": "metadata",
    "hf-quant-config": "metadata",
    "llm-compressor": "recipe",
    "modelopt": "recipe",
}


def relisted(config: Config, model: Model, reading: Reading) -> Iterator[Config]:
    """Candidates, the likeliest first: the files' names, the consumer's names, both, and where
    expressions are read, those of its names, which nothing renames.

    They are guesses: whoever takes one proves it. None where the form has no list of exclusions.
    """
    kept = [module for module in model.modules if module.wanted in {None, "bf16"}]
    files = [module.name for module in kept]
    layers = [
        layer.name
        for layer in reading.layers
        if all(module.wanted in {None, "bf16"} for module in layer.modules)
    ]
    runtime = list(dict.fromkeys(module.runtime for module in kept))
    candidates = [files, runtime, layers, list(dict.fromkeys([*files, *layers]))]
    if config.form == "compressed-tensors":
        candidates.append([f"re:^{re.escape(name)}$" for name in layers])
    for names in candidates:
        data = _with_list(config.data, names, _KEYS.get(config.form))
        if data is not None:
            yield replace(config, data=data)


def as_document(config: Config, form: str) -> Document:
    """The mended config, in JSON and YAML."""
    return Document(
        kind=_KINDS.get(form, "online config"),
        forms={
            "json": Form(".json", json.dumps(config.data, indent=2) + "\n"),
            "yaml": Form(".yaml", yaml.safe_dump(config.data, sort_keys=False)),
        },
        config=config.data,
    )


def _with_list(data: Any, names: list[str], key: str | None) -> Any | None:
    """A copy of `data` in which the one list of exclusions holds `names`; None if it has none."""
    if not isinstance(data, Mapping):
        return None
    found = [each for each in data if each in EXCLUSIONS]
    if found:
        return {each: names if each in found else value for each, value in data.items()}
    for each, value in data.items():
        inner = _with_list(value, names, None)
        if inner is not None:
            return {**data, each: inner}
    return {**data, key: names} if key else None
