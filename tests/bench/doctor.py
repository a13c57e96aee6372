"""What `fp8scope doctor` takes of memory and time on large checkpoints.

    python tests/bench/doctor.py [--gb 20] [--dense 2] [--folder DIR]

Two folders, each examined by a process of its own. The first has the names, shapes and metadata of
a mixture of experts with 128 of them in each layer, static per tensor, in shards of 1 GB; its
scales are written and its codes are holes in sparse files, which cost no disk, so that what is
measured is names and headers at full number, and the pass over zeros. The second is a file of
random codes (--dense GB of real disk), per channel: the pass over bytes as they are, read once
before so that the disk is not measured. Printed: tensors, bytes, seconds from the start of Python
to its end, peak RSS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SIDE, EXPERTS = 768, 128
SHARD = 1_000_000_000
CALL = "import sys; from fp8scope.cli.app import main; sys.argv[0] = 'fp8scope'; main()"
Entry = tuple[str, str, tuple[int, ...]]


def main() -> None:
    """Print a row for each of the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=20.0, help="size of the sparse checkpoint")
    parser.add_argument("--dense", type=float, default=2.0, help="size of the one with codes")
    parser.add_argument("--folder", type=Path, help="where to write; else a temporary folder")
    asked = parser.parse_args()
    print(
        "| checkpoint | tensors | GB | seconds | peak RSS, MB | errors |\n|---|---|---|---|---|---|"
    )
    for name, write, size in (("sparse", sparse, asked.gb), ("dense", dense, asked.dense)):
        with TemporaryDirectory(dir=asked.folder) as where:
            write(Path(where), int(size * 1e9))
            measure(name, Path(where))


def measure(name: str, folder: Path) -> None:
    """Examine it in a process of its own."""
    start = time.perf_counter()
    words = [sys.executable, "-c", CALL, "doctor", str(folder), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        found = json.loads(child.stdout.read())
        _, _, used = os.wait4(child.pid, 0)
    took = time.perf_counter() - start
    codes = ", ".join(fault["code"] for fault in found["faults"] if fault["severity"] == "error")
    print(
        f"| {name} | {found['tensors']:,} | {found['bytes'] / 1e9:.1f} | {took:.1f} "
        f"| {used.ru_maxrss / 1024:.0f} | {codes or 'none'} |"
    )


def sparse(folder: Path, size: int) -> None:
    """A mixture of experts of about `size` bytes."""
    layers = max(1, round(size / (EXPERTS * 3 * SIDE * SIDE)))
    kept = ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(layers))]
    said = {"quant_algo": "FP8", "exclude_modules": kept}
    config = {"num_hidden_layers": layers, "num_experts": EXPERTS, "model_type": "qwen3_moe"}
    _describe(
        folder,
        config
        | {
            "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": kept}
        },
    )
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": said}))
    weight_map: dict[str, str] = {}
    shards: list[list[str]] = [[]]
    for name in _linears(layers):
        if len(shards[-1]) * SIDE * SIDE > SHARD:
            shards.append([])
        shards[-1].append(name)
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights: list[Entry] = [
            (f"{n}.weight", "BF16" if _is_kept(n) else "F8_E4M3", (SIDE, SIDE)) for n in names
        ]
        scales: list[Entry] = [
            (f"{n}.{word}", "F32", ())
            for n in names
            if not _is_kept(n)
            for word in ("weight_scale", "input_scale")
        ]
        values = np.full(len(scales), 0.01, "<f4")
        _write(folder / file, weights, scales, values.tobytes())
        weight_map |= dict.fromkeys((entry[0] for entry in (*weights, *scales)), file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _linears(layers: int) -> Iterator[str]:
    yield "lm_head"
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield from (f"{at}.self_attn.{part}_proj" for part in "qkvo")
        yield f"{at}.mlp.gate"
        for expert in range(EXPERTS):
            yield from (f"{at}.mlp.experts.{expert}.{p}_proj" for p in ("gate", "up", "down"))


def _is_kept(name: str) -> bool:
    return name == "lm_head" or name.endswith("mlp.gate")


def dense(folder: Path, size: int) -> None:
    """One file of random codes, as those of a Gaussian lie."""
    group = {"targets": ["Linear"], "weights": _float8("channel", dynamic=False)}
    group["input_activations"] = _float8("token", dynamic=True)
    said = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    _describe(folder, {"quantization_config": said})
    rows, columns = 8192, 8192
    names = [f"model.layers.{n}.mlp.down_proj" for n in range(max(1, size // (rows * columns)))]
    weights: list[Entry] = [(f"{name}.weight", "F8_E4M3", (rows, columns)) for name in names]
    scales: list[Entry] = [(f"{name}.weight_scale", "F32", (rows, 1)) for name in names]
    values = np.full(rows * len(names), 0.01, "<f4")
    path = folder / "model.safetensors"
    start = _write(path, weights, scales, values.tobytes())
    draw = np.random.default_rng(0)
    magnitudes = np.clip(draw.normal(0x60, 12, 1 << 20), 0, 0x7E).astype(np.uint8)
    codes = magnitudes | (draw.integers(0, 2, 1 << 20, dtype=np.uint8) << 7)
    with path.open("r+b") as file:
        file.seek(start)
        for _ in range(len(names) * rows * columns >> 20):
            file.write(codes.tobytes())
    with path.open("rb") as file:  # into the memory of the system
        while file.read(1 << 24):
            pass


def _float8(strategy: str, *, dynamic: bool) -> dict[str, Any]:
    return {"num_bits": 8, "type": "float", "strategy": strategy, "dynamic": dynamic}


def _describe(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")


def _write(path: Path, holes: list[Entry], written: list[Entry], data: bytes) -> int:
    """A safetensors file whose `holes` are not written; where its data start."""
    header: dict[str, Any] = {}
    at = 0
    for name, dtype, shape in (*holes, *written):
        size = int(np.prod(shape)) * {"F32": 4, "BF16": 2}.get(dtype, 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(start + at - len(data))
        file.write(data)
    return start


if __name__ == "__main__":
    main()
