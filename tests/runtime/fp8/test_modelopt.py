"""What ModelOpt quantizes and exports runs as it ran there, fake-quantized, before the export."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fp8scope.core.modules import Treatment
from fp8scope.runtime.fp8.cache import KVScales
from fp8scope.runtime.fp8.checkpoint import load_fp8
from tests import models
from tests.runtime.fp8.reference import GEMMS, db
from tests.tokenizers import byte_tokenizer

with warnings.catch_warnings():  # it has not met this version of transformers
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.quantization.nn import TensorQuantizer

E4M3 = (4, 3)
STATIC = {"num_bits": E4M3, "axis": None}
CHANNEL = {"num_bits": E4M3, "axis": 0}
BLOCK = {"num_bits": E4M3, "block_sizes": {-1: 128, -2: 128}}
PER_TOKEN = {"num_bits": E4M3, "type": "dynamic", "block_sizes": {-1: None}}
PER_GROUP = {"num_bits": E4M3, "type": "dynamic", "block_sizes": {-1: 128}}
INPUT_AMAX, KEY_AMAX = 24.0, 12.0
KEY_SCALE = float(torch.tensor(KEY_AMAX) / 448)
SIZES = {"hidden_size": 128, "intermediate_size": 256}


def _config(name: str) -> dict[str, Any]:
    """Static per tensor; in Llama layer 1 per token, with its MLP in blocks."""
    rows: list[tuple[str, dict[str, Any]]] = [
        ("*layers.*_proj*weight_quantizer*", STATIC),
        ("*layers.*_proj*input_quantizer*", STATIC),
        ("*[kv]_bmm_quantizer", STATIC),
    ]
    if name == "llama":
        rows += [
            ("*layers.1.self_attn*weight_quantizer", CHANNEL),
            ("*layers.1.self_attn*input_quantizer", PER_TOKEN),
            ("*layers.1.mlp*weight_quantizer", BLOCK),
            ("*layers.1.mlp*input_quantizer", PER_GROUP),
        ]
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    entries += [{"quantizer_name": pattern, "cfg": cfg} for pattern, cfg in rows]
    return {"quant_cfg": entries, "algorithm": None}


def _set_scales(model: nn.Module) -> None:
    """amax by hand, in place of a calibration."""
    for owner, name, quantizer in _quantizers(model):
        if quantizer._dynamic:
            continue
        if "weight" not in name:
            quantizer.amax = torch.tensor(INPUT_AMAX if "input" in name else KEY_AMAX)
            continue
        weight = owner.float().abs()
        if quantizer.block_sizes:
            blocks = weight.unflatten(0, (-1, 128)).unflatten(-1, (-1, 128))
            quantizer.amax = blocks.amax(dim=(1, 3), keepdim=True)
        else:
            by_row = quantizer.axis == 0
            quantizer.amax = weight.amax(dim=1, keepdim=True) if by_row else weight.amax()


def _quantizers(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Each that is on, with the weight it stands for; of experts theirs one by one."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        child: Any
        for name, child in module.named_children():
            if isinstance(child, TensorQuantizer) and child.is_enabled:
                yield weight, name, child
            elif name.endswith("_weight_quantizers"):
                stack = getattr(module, name.removesuffix("_weight_quantizers"))
                yield from ((stack[i], name, each) for i, each in enumerate(child))


def _expected(name: str) -> set[Treatment]:
    plain: set[Treatment] = {"bf16", "fp8_tensor"}
    mixed: set[Treatment] = {"fp8_token", "fp8_block"}
    return plain | mixed if name == "llama" else plain


@pytest.fixture(scope="module", params=["llama", "phi3", "mixtral", "llama in bf16"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Tensor]:
    """The folder, and the logits of the fake-quantized model before it was exported."""
    name, _, dtype = str(request.param).partition(" in ")
    # Large weights amplify what bf16 rounds, be it ours or ModelOpt's own.
    changes: dict[str, Any] = {"initializer_range": 0.02} if dtype else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = models.build(name, **SIZES, **changes)
        model.to(torch.bfloat16 if dtype else torch.float32)
        model.config.architectures = [type(model).__name__]
        mtq.quantize(model, _config(name))
        _set_scales(model)
        with torch.no_grad():
            want = model(input_ids=models.token_ids(), use_cache=False).logits
        folder = tmp_path_factory.mktemp(name)
        for _, _, quantizer in _quantizers(model):
            if quantizer.block_sizes == {-1: 128}:  # what engines do of themselves
                quantizer.disable()
        export_hf_checkpoint(model, export_dir=folder)
    byte_tokenizer().save_pretrained(folder)
    return name, folder, want


@pytest.mark.parametrize("gemm", GEMMS)
def test_runs_as_it_was_fake_quantized(exported: tuple[str, Path, Tensor], gemm: Any) -> None:
    name, folder, want = exported
    loaded = load_fp8(folder, gemm=gemm)
    got = loaded.logits(models.token_ids())
    assert set(loaded.treatments.values()) == _expected(name)
    assert got.dtype is want.dtype
    # 110 to 130 dB in float32, or 41 where one code is a tie: ModelOpt multiplies by 448 / amax.
    # 44 dB in bf16, in which its fake quantization also scales and rounds.
    assert db(got, want) > 36
    assert loaded.kv_scales == dict.fromkeys(range(models.LAYERS), KVScales(KEY_SCALE, KEY_SCALE))
