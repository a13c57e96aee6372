"""Where a profile's numbers come from: the machine, the sequences, the text around outliers."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from fp8scope.profile.layout import EXCERPT_COLUMNS
from fp8scope.profile.record import Profile, Table, empty_table, top_tokens
from fp8scope.runtime.excerpt import excerpt
from fp8scope.runtime.text import Calibration

PACKAGES = ("fp8scope", "torch", "transformers", "h5py", "numpy")


def environment(model: nn.Module) -> dict[str, Any]:
    """Versions, device and threads; `seconds` counts up while the scan runs."""
    parameter = next(model.parameters())
    return {
        **{name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(parameter.device),
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
    }


def sample_table(text: Calibration) -> Table:
    """The table text/samples: one row per sequence."""
    columns = ("index", "tag", "source", "document", "window")
    table: Table = {
        name: np.array([getattr(sample, name) for sample in text.samples], np.int32)
        for name in columns
    }
    table["length"] = np.array([len(sample.tokens) for sample in text.samples], np.int32)
    table["digest"] = np.array([sample.digest.encode() for sample in text.samples], "S16")
    return table


def batch_table(batches: Sequence[tuple[int, ...]]) -> Table:
    """The table text/batches: the micro-batches in the order in which they run."""
    number = [i for i, batch in enumerate(batches) for _ in batch]
    return {
        "batch": np.array(number, np.int32),
        "sample": np.array([sample for batch in batches for sample in batch], np.int32),
    }


def excerpt_table(profile: Profile, text: Calibration, tokenizer: Any) -> Table:
    """The table text/excerpts: the text around every value in a top list; empty without a
    tokenizer.
    """
    table = empty_table(EXCERPT_COLUMNS)
    if tokenizer is None:
        return table
    rows = []
    for sample, position in sorted(top_tokens(profile.sites.values())):
        tokens = text.samples[sample].tokens
        found = excerpt(tokenizer, tokens.tolist(), position)
        row = (sample, position, int(tokens[position]), found.token, found.before, found.after)
        rows.append(row)
    for column, (name, dtype) in enumerate(EXCERPT_COLUMNS.items()):
        width = np.dtype(dtype).itemsize
        values: list[Any] = [row[column] for row in rows]
        if dtype.startswith("S"):
            values = [_fit(str(value), width, end=name == "before") for value in values]
        table[name] = np.array(values, dtype)
    return table


def _fit(text: str, width: int, *, end: bool) -> bytes:
    """UTF-8 of at most `width` bytes, cut at a character, keeping the end or the start."""
    raw = text.encode("utf-8", "replace")
    cut = raw[-width:] if end else raw[:width]
    return cut.decode("utf-8", "ignore").encode()
