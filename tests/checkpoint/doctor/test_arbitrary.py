"""Whatever lies in a folder, examining it gives faults or one refusal, and nothing else."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp8scope.checkpoint.doctor.diagnosis import Diagnosis
from fp8scope.checkpoint.doctor.examine import examine
from fp8scope.checkpoint.header import BITS
from fp8scope.errors import BadInput, Interrupted
from fp8scope.report.doctor import doctor_json, doctor_page
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.checkpoints import INDEX

ROUNDS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
WORDS = st.sampled_from(
    [
        "quant_method", "quant_algo", "quantization", "config_groups", "ignore", "targets",
        "exclude_modules", "quantized_layers", "weights", "input_activations", "strategy", "type",
        "num_bits", "dynamic", "kv_cache_scheme", "kv_cache_quant_algo", "activation_scheme",
        "weight_block_size", "block_structure", "modules_to_not_convert", "architectures",
        "text_config", "group_size", "model_type",
    ]
)  # fmt: skip
SAID = st.sampled_from(
    [
        "modelopt", "compressed-tensors", "fp8", "fbgemm_fp8", "FP8", "MIXED_PRECISION", "Linear",
        "FP8_PB_WO", "re:(", "re:.*[[", "*", "[", "lm_head", "float", "tensor", "block", "static",
        "model.layers.0.mlp.down_proj", "\ud800", "128x128", "",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SAID,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | SAID, inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(["modelopt", "compressed-tensors", "fp8", "fbgemm_fp8"])


def examined(folder: Path) -> Diagnosis | None:
    """What is found can be shown and written."""
    try:
        found = examine(folder)
    except BadInput:
        return None
    json.dumps(doctor_json(found))
    doctor_page(found, whole=True)
    return found


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = checkpoints.healthy().write(tmp_path_factory.mktemp("healthy"))
    return (folder / "model.safetensors").read_bytes()


@ROUNDS
@given(quantization=VALUES, metadata=VALUES, method=st.none() | METHODS, rest=VALUES)
def test_any_json_in_the_configs(
    tensors: bytes, quantization: Any, metadata: Any, method: str | None, rest: Any
) -> None:
    if isinstance(quantization, dict) and method is not None:
        quantization = {**quantization, "quant_method": method}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.safetensors").write_bytes(tensors)
        config = {**(rest if isinstance(rest, dict) else {}), "quantization_config": quantization}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "hf_quant_config.json").write_text(json.dumps(metadata))
        assert examined(folder) is not None


@ROUNDS
@given(data=st.binary(max_size=300), which=st.sampled_from(["config.json", INDEX, "plan.json"]))
def test_any_bytes_in_json_files(tensors: bytes, data: bytes, which: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.safetensors").write_bytes(tensors)
        (folder / which).write_bytes(data)
        assert examined(folder) is not None


@ROUNDS
@given(
    header=st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(["a.weight", "a.weight_scale", "lm_head.weight", "__metadata__", "\0"]),
        VALUES
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*BITS, "F3"]),
                "shape": st.lists(st.integers(-1, 4), max_size=4),
                "data_offsets": st.lists(st.integers(-2, 70), min_size=2, max_size=2),
            }
        ),
        max_size=4,
    ).map(lambda rows: json.dumps(rows).encode()),
    body=st.binary(max_size=64),
    length=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_header(header: bytes, body: bytes, length: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = len(header) if length is None else length
        data = size.to_bytes(8, "little") + header + body
        (folder / "model.safetensors").write_bytes(data)
        said = {"quant_method": "fp8", "activation_scheme": "static"}
        (folder / "config.json").write_text(json.dumps({"quantization_config": said}))
        assert examined(folder) is not None


@ROUNDS
@given(files=st.lists(st.sampled_from(["a.safetensors", "../a", "\0", "", ".", "\ud800", "/etc"])))
def test_any_names_of_shards(tensors: bytes, files: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.safetensors").write_bytes(tensors)
        weight_map = {f"x{at}": file for at, file in enumerate(files)}
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        examined(folder)


def test_folders_where_files_should_be(tmp_path: Path) -> None:
    for name in ("config.json", "hf_quant_config.json", "plan.json", INDEX):
        (tmp_path / name).mkdir()
    (tmp_path / "model.safetensors").mkdir()
    found = examined(tmp_path)
    assert found is not None
    assert "config-unreadable" in {fault.code for fault in found.errors}


def test_it_stops_when_asked(tmp_path: Path) -> None:
    folder = checkpoints.healthy().write(tmp_path)
    with pytest.raises(Interrupted):
        examine(folder, stop=lambda: True)


def test_progress_ends_at_all_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = examine(
        checkpoints.healthy().write(tmp_path),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (found.nbytes, found.nbytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """A sparse file: 256 MB of codes and 8 MB of scales."""
    import tracemalloc

    rows, columns = 1 << 21, 128
    header = {
        "a.q.weight": _entry("F8_E4M3", [rows, columns], 0, rows * columns),
        "a.q.weight_scale": _entry("F32", [rows, 1], rows * columns, rows * (columns + 4)),
    }
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + rows * (columns + 4))
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "fbgemm_fp8"}}')
    tracemalloc.start()
    try:
        found = examine(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.nbytes == rows * (columns + 4) > 256 * 2**20
    assert {"scale-zero", "fp8-zero"} == {fault.code for fault in found.errors}
    assert peak < 32 * 2**20, f"{peak / 2**20:.0f} MB"


def _entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_codes_stand_for_what_torch_says() -> None:
    import torch

    from fp8scope.checkpoint.doctor.counting import code_value

    values = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal([code_value(code) for code in range(0x7F)], values)
