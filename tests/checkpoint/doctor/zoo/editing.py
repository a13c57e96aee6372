"""A checkpoint taken apart and put together again, so that a test can spoil one thing in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CHECKPOINTS = Path(__file__).parent / "checkpoints"
NAMES = tuple(sorted(path.name for path in CHECKPOINTS.iterdir()))
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Floats = npt.NDArray[np.float32]


@dataclass
class Tensor:
    """As it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def floats(self) -> Floats:
        """An F32 or BF16 tensor's values."""
        if self.dtype == "BF16":
            bits = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            return bits.view("<f4").reshape(self.shape)
        assert self.dtype == "F32"
        return np.frombuffer(self.data, "<f4").reshape(self.shape).copy()

    @floats.setter
    def floats(self, values: Any) -> None:
        array = np.asarray(values, "<f4")
        self.shape = array.shape
        cut = (array.view("<u4") >> 16).astype("<u2") if self.dtype == "BF16" else array
        self.data = cut.tobytes()


@dataclass
class Checkpoint:
    """A copy of one in `folder`. `tensors`, `config` and `quant` (hf_quant_config.json) are written
    by `save`, and so is nothing else.
    """

    folder: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    quant: dict[str, Any] | None
    metadata: dict[str, str]

    @property
    def beside(self) -> dict[str, Any]:
        """The `quantization` of hf_quant_config.json."""
        assert self.quant is not None
        found: dict[str, Any] = self.quant["quantization"]
        return found

    @property
    def said(self) -> dict[str, Any]:
        """config.json's `quantization_config`."""
        found: dict[str, Any] = self.config["quantization_config"]
        return found

    def ending(self, *ends: str) -> list[str]:
        """Names of tensors."""
        return [name for name in self.tensors if name.endswith(ends)]

    def scale(self, change: Callable[[Floats], Any], *ends: str) -> None:
        """Put `change` of the values in their place, in every tensor whose name ends so."""
        names = self.ending(*ends)
        assert names, ends
        for name in names:
            self.tensors[name].floats = change(self.tensors[name].floats)

    def drop(self, *ends: str) -> None:
        """Forget every tensor whose name ends so."""
        names = self.ending(*ends)
        assert names, ends
        for name in names:
            del self.tensors[name]

    def rename(self, end: str, new: str) -> None:
        """The same for what ends so, with another end."""
        for name in self.ending(end):
            self.tensors[name.removesuffix(end) + new] = self.tensors.pop(name)

    def dequantize(self, module: str) -> None:
        """Write the module's per-tensor or per-channel weight as BF16, its scales gone."""
        weight = self.tensors[f"{module}.weight"]
        values = np.zeros(weight.shape) + np.linspace(-0.1, 0.1, weight.shape[1])
        for name in [n for n in self.tensors if n.startswith(f"{module}.") and "scale" in n]:
            del self.tensors[name]
        self.tensors[f"{module}.weight"] = plain(values)

    def save(self) -> None:
        """Write the tensors into one file, and the metadata."""
        write(self.folder / SINGLE, self.tensors, self.metadata)
        _dump(self.folder / "config.json", self.config)
        if self.quant is not None:
            _dump(self.folder / "hf_quant_config.json", self.quant)

    def shard(self) -> tuple[Path, Path]:
        """Save into two shards with an index, in the order of the names."""
        self.save()
        (self.folder / SINGLE).unlink()
        names = sorted(self.tensors)
        files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        parts = (names[: len(names) // 2], names[len(names) // 2 :])
        for file, part in zip(files, parts, strict=True):
            write(self.folder / file, {name: self.tensors[name] for name in part}, self.metadata)
        weight_map = {n: f for f, part in zip(files, parts, strict=True) for n in part}
        size = sum(len(tensor.data) for tensor in self.tensors.values())
        _dump(self.folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        return self.folder / files[0], self.folder / files[1]


def copy(name: str, folder: Path) -> Checkpoint:
    """One of NAMES, in `folder`."""
    target = folder / name
    shutil.copytree(CHECKPOINTS / name, target)
    quant = target / "hf_quant_config.json"
    metadata, tensors = read(target / SINGLE)
    return Checkpoint(
        target,
        tensors,
        json.loads((target / "config.json").read_text()),
        json.loads(quant.read_text()) if quant.exists() else None,
        metadata,
    )


def plain(values: Any) -> Tensor:
    """A BF16 tensor."""
    tensor = Tensor("BF16", (), b"")
    tensor.floats = values
    return tensor


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's metadata and tensors."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    return metadata, {
        name: Tensor(
            row["dtype"],
            tuple(row["shape"]),
            content[start + row["data_offsets"][0] : start + row["data_offsets"][1]],
        )
        for name, row in header.items()
    }


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    header |= dict(_rows(tensors))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _rows(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any]]]:
    at = 0
    for name, tensor in tensors.items():
        stop = at + len(tensor.data)
        yield (
            name,
            {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, stop],
            },
        )
        at = stop


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
