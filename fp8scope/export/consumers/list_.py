"""Plain names of the modules that stay in BF16, for whatever takes a list."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fp8scope.core.modules import Model
from fp8scope.export.consumer import SAYS, Consumer, Document, Form


def write(model: Model) -> Document:
    """By the files' names (`text`, `json`), and by transformers' (`runtime`)."""
    kept = [module for module in model.modules if module.wanted in {None, "bf16"}]
    names = [module.name for module in kept]
    return Document(
        kind="list",
        forms={
            "text": Form(".txt", _lines(model, names, "the checkpoint's files")),
            "json": Form(".json", json.dumps(names, indent=2) + "\n"),
            "runtime": Form(
                ".txt", _lines(model, dict.fromkeys(m.runtime for m in kept), "transformers 5")
            ),
        },
        config=None,
    )


def _lines(model: Model, names: Iterable[str], source: str) -> str:
    listed = list(names)
    head = [f"# {SAYS['list']}: linears of {model.name} that stay in BF16, named as in {source}"]
    if model.folded:
        head.append("# for the model with smoothing folded into its weights")
    if not listed:
        head.append("# nothing to exclude: every linear runs in FP8")
    return "\n".join([*head, *listed]) + "\n"


CONSUMER = Consumer(
    name="list", about="plain names of the modules that stay in BF16, one per line", write=write
)
