"""Metadata that says one thing by its form and another by its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor import checkpoints
from tests.checkpoint.doctor.finding import shown, the_error


@pytest.mark.parametrize("method", ["modelop", "fp8", "awq", "bitsandbytes"])
def test_a_foreign_method_beside_the_keys_of_modelopt(tmp_path: Path, method: str) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.quantization["quant_method"] = method
    fault = the_error(checkpoint.write(tmp_path), "quant-method-unknown", ["config.json"])
    assert f"{method!r}, and the keys are ModelOpt's" in fault.what


@pytest.mark.parametrize("method", ["ModelOpt", "modelopt_fp8", None])
def test_a_method_that_is_modelopts(tmp_path: Path, method: str | None) -> None:
    checkpoint = checkpoints.healthy()
    checkpoint.quantization["quant_method"] = method
    found = examine(checkpoint.write(tmp_path))
    assert found.faults == (), shown(found)


@pytest.mark.parametrize(
    "layout", ["pack-quantized", "int-quantized", "dense", ["float-quantized"]]
)
def test_a_format_of_other_weights(tmp_path: Path, layout: Any) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.quantization["format"] = layout
    fault = the_error(checkpoint.write(tmp_path), "format-not-fp8", ["config.json"])
    assert repr(layout) in fault.what


@pytest.mark.parametrize("layout", ["float-quantized", "naive-quantized", None])
def test_a_format_of_fp8(tmp_path: Path, layout: str | None) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    checkpoint.quantization["format"] = layout
    assert examine(checkpoint.write(tmp_path)).faults == ()


def test_the_format_of_a_group(tmp_path: Path) -> None:
    checkpoint = checkpoints.healthy("compressed-tensors")
    group = checkpoint.quantization["config_groups"]["group_0"]
    checkpoint.quantization["format"] = "mixed-precision"
    group["format"] = "float-quantized"
    assert examine(checkpoint.write(tmp_path / "right")).faults == ()
    group["format"] = "pack-quantized"
    the_error(checkpoint.write(tmp_path / "wrong"), "format-not-fp8", ["config.json"])


def test_two_files_of_two_forms(tmp_path: Path) -> None:
    """Though they say the same of every linear."""
    checkpoint = checkpoints.healthy("compressed-tensors")
    said = {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "exclude_modules": [checkpoints.KEPT]}
    checkpoint.metadata = {"quantization": said}
    fault = the_error(checkpoint.write(tmp_path), "metadata-disagree")
    assert fault.where == ("config.json", "hf_quant_config.json")
    assert "config.json says compressed-tensors" in fault.what
    assert "hf_quant_config.json says modelopt" in fault.what
