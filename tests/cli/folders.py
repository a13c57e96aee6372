"""Model folders for the command line, whole and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tests import models
from tests.tokenizers import byte_tokenizer

TEXT = "".join(f"{i}. It is a truth universally acknowledged, or so they say.\n" for i in range(40))


def make(folder: Path, name: str = "llama") -> Path:
    """A small model with its tokenizer, in bf16, and a text beside it."""
    tokenizer = byte_tokenizer()
    model: Any = models.build(name, vocab_size=len(tokenizer))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "text.txt").write_text(TEXT)
    return folder


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, name: str, change: Any) -> None:
    """Replace a tensor by `change(tensor)`, or drop it if that is None."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    save_file(tensors, path, {"format": "pt"})


def pickle_weights(folder: Path) -> None:
    """Turn model.safetensors into pytorch_model.bin."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()
