"""What the hashes of config and weights see, and what they must not see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fp8scope.checkpoint.identity import config_hash, sampled_ranges, weights_hash
from fp8scope.checkpoint.inventory import Inventory, read_inventory
from fp8scope.checkpoint.listing import INDEX, SINGLE
from fp8scope.errors import BadModel

CONFIG: dict[str, Any] = {"model_type": "llama", "hidden_size": 8, "rope": {"theta": 1e4}}
BIG = 600 * 1024  # bytes, well above what is sampled whole


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "big": torch.randn(BIG // 2 // 256, 256, generator=generator).to(torch.bfloat16),
        "small": torch.randn(7, 5, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(3.0),
    }


def _hash(folder: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> str:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / SINGLE, metadata=metadata or None)
    return weights_hash(read_inventory(folder))


def _write_config(folder: Path, config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return config_hash(folder)


def test_shards_hash_as_one_file(tmp_path: Path) -> None:
    tensors = _tensors()
    shards = {"1.safetensors": ["scalar", "big"], "2.safetensors": ["small"]}
    (tmp_path / "sharded").mkdir()
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, tmp_path / "sharded" / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (tmp_path / "sharded" / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    sharded = weights_hash(read_inventory(tmp_path / "sharded"))
    assert sharded == _hash(tmp_path / "single", tensors)
    assert sharded == _hash(tmp_path / "tagged", dict(reversed(tensors.items())), format="pt")
    assert len(bytes.fromhex(sharded)) == 32


@pytest.mark.parametrize("place", ["first", "middle", "last", "strided"])
def test_one_sampled_value_changes_the_hash(tmp_path: Path, place: str) -> None:
    tensors = _tensors()
    before = _hash(tmp_path, tensors)
    strided = sampled_ranges(BIG)[5][0] // 2 + 1
    values = {"first": 0, "middle": BIG // 4, "last": -1, "strided": strided}
    bits = tensors["big"].view(torch.int16).flatten()
    bits[values[place]] ^= 1
    assert _hash(tmp_path, tensors) != before


@pytest.mark.parametrize("value", [0, 17, 34])
def test_any_value_of_a_small_tensor_changes_the_hash(tmp_path: Path, value: int) -> None:
    tensors = _tensors()
    before = _hash(tmp_path, tensors)
    tensors["small"].view(torch.int16).flatten()[value] ^= 1
    assert _hash(tmp_path, tensors) != before


def test_a_fine_tune_changes_the_hash(tmp_path: Path) -> None:
    """One value in a hundred of one tensor moves by one bf16 step."""
    tensors = _tensors()
    before = _hash(tmp_path, tensors)
    bits = tensors["big"].view(torch.int16).flatten()
    chosen = torch.randperm(len(bits), generator=torch.Generator().manual_seed(1))
    bits[chosen[: len(bits) // 100]] += 1
    assert _hash(tmp_path, tensors) != before


def test_name_dtype_and_shape_change_the_hash(tmp_path: Path) -> None:
    tensors = _tensors()
    before = _hash(tmp_path, tensors)
    small = tensors.pop("small")
    changed = [
        {"smell": small},
        {"small": small.view(torch.float16)},
        {"small": small.reshape(5, 7)},
    ]
    hashes = {_hash(tmp_path, {**tensors, **change}) for change in changed}
    assert len(hashes | {before}) == 4


def test_a_file_cut_after_it_was_listed(tmp_path: Path) -> None:
    save_file(_tensors(), tmp_path / SINGLE)
    inventory = read_inventory(tmp_path)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-1])
    with pytest.raises(BadModel, match="cut off"):
        weights_hash(inventory)


def test_a_file_gone_after_it_was_listed(tmp_path: Path) -> None:
    save_file(_tensors(), tmp_path / SINGLE)
    inventory = read_inventory(tmp_path)
    with pytest.raises(BadModel, match="cannot be read"):
        weights_hash(Inventory(tmp_path / "gone", inventory.tensors))


@pytest.mark.parametrize("nbytes", [0, 1, 65536, 65537, 65540, 10**6 + 1, 10**12])
def test_samples_lie_within_the_tensor(nbytes: int) -> None:
    ranges = sampled_ranges(nbytes)
    assert all(0 <= start <= stop <= nbytes for start, stop in ranges)
    assert sum(stop - start for start, stop in ranges) <= 65536
    assert ranges[0][0] == 0
    assert max(stop for _, stop in ranges) == nbytes


def test_config_hash_ignores_who_wrote_it(tmp_path: Path) -> None:
    before = _write_config(tmp_path, CONFIG)
    noise = {"transformers_version": "5.0", "_name_or_path": "x"}
    nested = {**CONFIG, "rope": {**CONFIG["rope"], **noise}}
    assert _write_config(tmp_path, {**noise, **dict(reversed(nested.items()))}) == before
    assert _write_config(tmp_path, {**CONFIG, "hidden_size": 9}) != before
    assert _write_config(tmp_path, {**CONFIG, "rope": {"theta": 1e5}}) != before


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "no config.json"), ("{", "not JSON"), ("[]", "not a JSON object")]
)
def test_config_refusals(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadModel, match=reason):
        config_hash(tmp_path)


def test_checkpoint_modules_need_no_torch() -> None:
    code = (
        "import sys; import fp8scope.checkpoint.identity;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
