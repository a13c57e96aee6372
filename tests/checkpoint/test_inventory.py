"""Reading safetensors folders, and each way to refuse one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fp8scope.checkpoint.inventory import Inventory, read_header, read_inventory
from fp8scope.checkpoint.listing import INDEX, SINGLE
from fp8scope.errors import BadModel

TENSORS: dict[str, Any] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(4, dtype=np.float16),
    "c": np.array(7, dtype=np.int64),
}


def write_sharded(folder: Path, shards: Mapping[str, Mapping[str, Any]]) -> None:
    """Save each of `shards` (file → tensors) and the index that names them."""
    for file, tensors in shards.items():
        save_file(dict(tensors), folder / file)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _write_raw(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / SINGLE).write_bytes(size.to_bytes(8, "little") + header + data)


def _write_header(folder: Path, entry: object, data: bytes = b"") -> None:
    _write_raw(folder, json.dumps({"w": entry}).encode(), data)


def _refusal(folder: Path) -> str:
    with pytest.raises(BadModel) as refusal:
        read_inventory(folder)
    assert refusal.value.remedy
    message = str(refusal.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def _value(inventory: Inventory, name: str, dtype: type) -> Any:
    entry = next(tensor for tensor in inventory.tensors if tensor.name == name)
    data = (inventory.folder / entry.file).read_bytes()[entry.start : entry.stop]
    return np.frombuffer(data, dtype=dtype).reshape(entry.shape)


def test_single_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE, metadata={"format": "pt"})
    inventory = read_inventory(tmp_path)
    assert inventory.shapes() == {"a": (4,), "b": (2, 3), "c": ()}
    assert [(t.name, t.dtype, t.file) for t in inventory.tensors] == [
        ("a", "F16", SINGLE),
        ("b", "F32", SINGLE),
        ("c", "I64", SINGLE),
    ]
    assert inventory.nbytes() == 8 + 24 + 8
    np.testing.assert_array_equal(_value(inventory, "b", np.float32), TENSORS["b"])
    np.testing.assert_array_equal(_value(inventory, "c", np.int64), TENSORS["c"])


def test_shards(tmp_path: Path) -> None:
    write_sharded(
        tmp_path,
        {
            "one.safetensors": {"b": TENSORS["b"]},
            "two.safetensors": {"a": TENSORS["a"], "c": TENSORS["c"]},
        },
    )
    inventory = read_inventory(tmp_path)
    assert [(t.name, t.file) for t in inventory.tensors] == [
        ("a", "two.safetensors"),
        ("b", "one.safetensors"),
        ("c", "two.safetensors"),
    ]
    np.testing.assert_array_equal(_value(inventory, "a", np.float16), TENSORS["a"])


def test_the_index_decides_where_two_shards_hold_a_name(tmp_path: Path) -> None:
    shards = {"one.safetensors": {"a": TENSORS["a"]}, "two.safetensors": {"a": TENSORS["a"]}}
    write_sharded(tmp_path, shards)  # the later file wins in the map
    assert [t.file for t in read_inventory(tmp_path).tensors] == ["two.safetensors"]


def test_tensors_that_the_index_forgets_are_listed(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": TENSORS})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert set(read_inventory(tmp_path).shapes()) == set(TENSORS)


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": {"b": TENSORS["b"]}})
    save_file({"a": TENSORS["a"]}, tmp_path / SINGLE)
    assert set(read_inventory(tmp_path).shapes()) == {"a"}


def test_a_dtype_newer_than_this_release_is_listed(tmp_path: Path) -> None:
    entry = {"dtype": "F3", "shape": [8], "data_offsets": [0, 3]}
    _write_header(tmp_path, entry, b"\0" * 3)
    assert read_inventory(tmp_path).tensors[0].dtype == "F3"


def test_an_empty_tensor(tmp_path: Path) -> None:
    save_file({"e": np.zeros((0, 3), dtype=np.float32)}, tmp_path / SINGLE)
    assert read_inventory(tmp_path).shapes() == {"e": (0, 3)}


def test_no_such_folder(tmp_path: Path) -> None:
    assert "no such folder" in _refusal(tmp_path / "absent")


def test_no_weights(tmp_path: Path) -> None:
    assert "no weights" in _refusal(tmp_path)


def test_only_pickles(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "a.pt", "b.pth", "c.bin"):
        (tmp_path / name).write_bytes(b"x")
    message = _refusal(tmp_path)
    assert "only pickles" in message
    assert "and 1 more" in message
    assert "--allow-pickle" in message


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "consolidated.safetensors")
    (tmp_path / "a.bin").write_bytes(b"x")
    message = _refusal(tmp_path)
    assert "consolidated.safetensors" in message
    assert "rename" in message


@pytest.mark.parametrize("keep", [0, 7, 8, 20])
def test_a_file_that_ends_inside_its_header(tmp_path: Path, keep: int) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:keep])
    assert "ends inside its header" in _refusal(tmp_path)


def test_an_absurd_header_length(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    message = _refusal(tmp_path)
    assert "absurd" in message
    assert "pointer" in message


@pytest.mark.parametrize("header", [b"{no json}", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_header_that_is_not_json(tmp_path: Path, header: bytes) -> None:
    _write_raw(tmp_path, header)
    assert "header is not JSON" in _refusal(tmp_path)


def test_a_header_that_is_not_an_object(tmp_path: Path) -> None:
    _write_raw(tmp_path, b"[1]")
    assert "not a JSON object" in _refusal(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
    ],
)
def test_a_malformed_entry(tmp_path: Path, entry: object) -> None:
    _write_header(tmp_path, entry, b"\0" * 4)
    assert "entry for w is malformed" in _refusal(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
    ],
)
def test_bytes_that_cannot_hold_the_tensor(tmp_path: Path, entry: object) -> None:
    _write_header(tmp_path, entry, b"\0" * 4)
    assert "cannot hold w" in _refusal(tmp_path)


def test_truncated_data(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    data = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(data[:-1])
    assert f"truncated, {len(data) - 1:,} of {len(data):,} bytes" in _refusal(tmp_path)


def test_data_after_the_end(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes() + b"xx")
    assert "2 bytes longer" in _refusal(tmp_path)


def test_no_tensors(tmp_path: Path) -> None:
    _write_raw(tmp_path, b"{}")
    assert "no tensors" in _refusal(tmp_path)


def test_a_missing_shard(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": {"a": TENSORS["a"]}, "two.safetensors": TENSORS})
    (tmp_path / "one.safetensors").unlink()
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    message = _refusal(tmp_path)
    assert "one.safetensors, which is missing" in message


def test_a_shard_without_a_tensor_that_the_index_names(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": TENSORS})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"z": "one.safetensors"}}))
    assert "z is in one.safetensors, which does not hold it" in _refusal(tmp_path)


@pytest.mark.parametrize("file", ["../one.safetensors", "/one.safetensors", "sub/one.safetensors"])
def test_a_shard_outside_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    assert "not a plain file name" in _refusal(tmp_path)


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index)
    assert INDEX in _refusal(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="cannot be read"):
        read_header(tmp_path)
