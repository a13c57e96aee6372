"""Small random checkpoints, in FP8 and not, and engines and orders for them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from fp8scope.verify.native.engine import Engine, open_engine
from fp8scope.verify.order import Order
from tests import models
from tests.runtime.fp8.checkpoints import write
from tests.tokenizers import byte_tokenizer

VOCABULARY = 320
KV = (0.02, 0.01)


@cache
def checkpoint(
    name: str, treatment: Any = "fp8_tensor", *, kv: bool = True, **changes: Any
) -> Path:
    """All linears but lm_head and routers in FP8. Shared: do not change it."""
    folder = Path(mkdtemp(prefix=f"fp8scope-{name}-")) / "fp8"
    model = models.build(name, vocab_size=VOCABULARY, **changes)
    return write(model, folder, treatment, kv=KV if kv else None).folder


@cache
def plain(name: str) -> Path:
    """The same model as it is."""
    folder = Path(mkdtemp(prefix=f"fp8scope-{name}-"))
    model: Any = models.build(name, vocab_size=VOCABULARY)
    model.to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def order(checkpoint: Path, folder: Path | None = None, **wishes: Any) -> Order:
    """A small one, on the CPU."""
    small = Order(
        str(checkpoint), str(folder or ""), "timing", "none", "cpu", 2, 9, 6, repeats=3,
        decode_steps=3,
    )  # fmt: skip
    return replace(small, **wishes)


def engine(name: str, treatment: Any = "fp8_tensor", **wishes: Any) -> Engine:
    """Of `checkpoint`, loaded anew."""
    return open_engine(order(checkpoint(name, treatment), **wishes))
