"""What ModelOpt itself exports without a word, and no engine runs as it was meant."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.checkpoint.doctor.examine import examine
from tests.checkpoint.doctor.zoo.tiny_models import build, calibrate

with warnings.catch_warnings():  # it has not met this version of transformers
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
Config = dict[str, Any]
PER_CHANNEL = {"num_bits": (4, 3), "axis": 0}


def _fp8(*entries: Config, **changes: Any) -> Config:
    config = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    config["quant_cfg"] = [*config["quant_cfg"], *entries]
    return {**config, **changes}


def _off(pattern: str) -> Config:
    return {"quantizer_name": pattern, "enable": False}


def _export(folder: Path, config: Config, loop: Callable[[Any], None] | None) -> None:
    torch.manual_seed(0)
    model = build("llama_short")
    mtq.quantize(model, config, loop)
    export_hf_checkpoint(model, export_dir=folder)


TRAPS: dict[str, tuple[Config, bool, str, str]] = {
    "smoothquant": (
        _fp8(algorithm={"method": "smoothquant"}), True, "input-scale-vector", "mlp.up_proj",
    ),
    "awq": (_fp8(algorithm={"method": "awq_lite"}), True, "pre-quant-scale", "mlp.up_proj"),
    "no forward loop": (_fp8(), False, "input-scale-missing", "self_attn.q_proj"),
    "q_proj alone off": (_fp8(_off("*q_proj*")), True, "fused-split", "self_attn.q_proj"),
    "gate_proj alone off": (_fp8(_off("*gate_proj*")), True, "fused-split", "mlp.gate_proj"),
    "static inputs called per token": (
        _fp8({"quantizer_name": "*layers*weight_quantizer", "cfg": PER_CHANNEL}),
        True, "input-scale-unexpected", "mlp.up_proj",
    ),
    "the embedding, by an entry that comes last": (
        _fp8({"quantizer_name": "*weight_quantizer", "cfg": PER_CHANNEL}, _off("*input_quantizer")),
        True, "embedding-quantized", "model.embed_tokens",
    ),
    "weights alone": (_fp8(_off("*input_quantizer")), True, "input-scale-missing", "mlp.up_proj"),
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_named(trap: str, tmp_path: Path) -> None:
    config, calibrated, code, where = TRAPS[trap]
    _export(tmp_path, config, calibrate if calibrated else None)
    found = examine(tmp_path)
    fault = next((each for each in found.faults if each.code == code), None)
    assert fault is not None, found.faults
    assert any(where in each for each in fault.where), fault
    assert {each.code for each in found.errors} <= {code}, found.errors
