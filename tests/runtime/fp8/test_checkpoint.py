"""An FP8 checkpoint, loaded: what its own codes and scales compute, or a refusal that names why."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fp8scope.core.modules import Treatment
from fp8scope.errors import BadModel
from fp8scope.runtime.fp8.cache import KVScales
from fp8scope.runtime.fp8.checkpoint import load_fp8
from fp8scope.runtime.fp8.experts import Fp8Experts
from fp8scope.runtime.fp8.linear import Fp8Linear, Gemm
from tests import models
from tests.runtime.fp8.checkpoints import Written, expected, write
from tests.runtime.fp8.reference import GEMMS, db

UNIFORM: tuple[Treatment, ...] = ("fp8_tensor", "fp8_token", "fp8_block")
NEAR_DB = 55.0  # a rounding of float32 can tip a code; each tips by one step of E4M3
Spoil = Callable[[Written], None]


def mixed(name: str) -> Treatment:
    """Everything at once: layer 0 per tensor, but its MLP; layer 1 per token, its MLP in blocks."""
    if "experts" in name:
        return "fp8_tensor"
    if ".0." in name:
        return "bf16" if "mlp" in name else "fp8_tensor"
    return "fp8_block" if "mlp" in name else "fp8_token"


@pytest.fixture
def ids() -> Tensor:
    return models.token_ids(rows=2, length=7)


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors"])
@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral", "gemma2"])
def test_computes_what_the_files_say(
    tmp_path: Path, ids: Tensor, name: str, layout: str, gemm: Gemm
) -> None:
    written = write(models.build(name), tmp_path / "m", mixed, layout=layout, kv=(0.02, 0.01))
    loaded = load_fp8(written.folder, gemm=gemm)
    want = expected(written, ids, loaded.kv_scales)
    assert db(loaded.logits(ids), want) > NEAR_DB
    assert loaded.kv_scales == dict.fromkeys(range(models.LAYERS), _kv(0.02, 0.01))
    fp8 = [m for m in loaded.model.modules() if isinstance(m, Fp8Linear)]
    assert len(fp8) == len(written.linears)
    assert {m.gemm for m in fp8} == {gemm}
    assert not any(0 in p.stride() for p in loaded.model.parameters() if p.ndim == 2)


@pytest.mark.parametrize("treatment", UNIFORM)
@pytest.mark.parametrize("layout", ["modelopt", "compressed-tensors", "fp8"])
def test_every_scheme_of_every_format(
    tmp_path: Path, ids: Tensor, layout: str, treatment: Treatment
) -> None:
    if (layout, treatment) == ("fp8", "fp8_token"):
        treatment = "fp8_tensor_dynamic"
    model = models.build("llama", hidden_size=144, intermediate_size=160)
    written = write(model, tmp_path / "m", treatment, layout=layout)
    loaded = load_fp8(written.folder)
    assert db(loaded.logits(ids), expected(written, ids)) > NEAR_DB
    assert 8 < db(loaded.logits(ids), models.logits(model, ids)) < 40
    assert set(loaded.treatments.values()) == {treatment, "bf16"}
    assert loaded.treatments["lm_head"] == "bf16"
    assert loaded.cache() is None


def test_a_block_that_is_the_whole_weight(tmp_path: Path, ids: Tensor) -> None:
    """[1, 1] scales of small weights look like those of a tensor."""
    for layout in ("compressed-tensors", "fp8"):
        written = write(models.build("llama"), tmp_path / layout, "fp8_block", layout=layout)
        loaded = load_fp8(written.folder)
        assert loaded.treatments["model.layers.0.mlp.down_proj"] == "fp8_block"
        assert db(loaded.logits(ids), expected(written, ids)) > NEAR_DB


def test_names_of_the_runtime(tmp_path: Path) -> None:
    """Mixtral's files and modules are named differently, and experts are stacked."""
    written = write(models.build("mixtral"), tmp_path / "m")
    loaded = load_fp8(written.folder)
    assert "model.layers.0.block_sparse_moe.experts.3.w1" in written.linears
    wanted = {
        f"model.layers.{n}.mlp.experts.{p}" for n in range(2) for p in ("gate_up_proj", "down_proj")
    }
    assert wanted <= {name for name, t in loaded.treatments.items() if t == "fp8_tensor"}
    assert loaded.treatments["model.layers.0.mlp.gate"] == "bf16"
    assert sum(isinstance(m, Fp8Experts) for m in loaded.model.modules()) == models.LAYERS
    assert loaded.identity["architecture"] == "MixtralForCausalLM"
    assert loaded.identity["parameters"] == sum(
        p.numel() for p in models.build("mixtral").parameters()
    )


def test_of_experts_one_stack_alone(tmp_path: Path, ids: Tensor) -> None:
    """w1 and w3 in FP8 and w2 as it was."""
    written = write(
        models.build("mixtral"), tmp_path / "m", lambda n: "bf16" if "w2" in n else "fp8_tensor"
    )
    loaded = load_fp8(written.folder)
    assert loaded.treatments["model.layers.1.mlp.experts.gate_up_proj"] == "fp8_tensor"
    assert loaded.treatments["model.layers.1.mlp.experts.down_proj"] == "bf16"
    assert 8 < db(loaded.logits(ids), models.logits(models.build("mixtral"), ids)) < 40


@pytest.mark.parametrize("tied", [False, True])
def test_an_output_layer(tmp_path: Path, ids: Tensor, tied: bool) -> None:
    """In FP8, and apart from the embedding also where the config still says that they are one."""
    written = write(models.build("llama"), tmp_path / "m", heads=True)
    assert "lm_head" in written.linears
    written.config["tie_word_embeddings"] = tied
    loaded = load_fp8(written.save())
    assert loaded.treatments["lm_head"] == "fp8_tensor"
    assert db(loaded.logits(ids), expected(written, ids)) > NEAR_DB


def test_a_latent_cache_has_one_scale(tmp_path: Path, ids: Tensor) -> None:
    """DeepSeek's: `k_scale` for latent and rotated key alike, with or without a v_scale."""
    model = models.build("deepseek_v3")
    written = write(model, tmp_path / "m", layout="compressed-tensors", kv=(0.02, 7.0))
    beside = load_fp8(written.folder)
    assert beside.kv_scales[1] == _kv(0.02, 0.02, latent_dim=12)
    for layer in range(models.LAYERS):
        del written.tensors[f"model.layers.{layer}.self_attn.v_scale"]
    alone = load_fp8(written.save())
    assert torch.equal(alone.logits(ids), beside.logits(ids))


def test_what_the_class_leaves_out(tmp_path: Path, ids: Tensor) -> None:
    """DeepSeek-V3's files hold a layer for MTP, in FP8 as the others, which transformers skips."""
    written = write(models.build("deepseek_v3"), tmp_path / "m", layout="compressed-tensors")
    want = load_fp8(written.folder).logits(ids)
    mtp = "model.layers.61.self_attn"
    for part in ("weight", "weight_scale", "input_scale"):
        source = written.tensors[f"model.layers.0.self_attn.o_proj.{part}"]
        written.tensors[f"{mtp}.o_proj.{part}"] = source.clone()
    written.tensors[f"{mtp}.k_scale"] = torch.tensor(0.5)
    loaded = load_fp8(written.save())
    assert torch.equal(loaded.logits(ids), want)
    assert loaded.kv_scales == {}


def test_weights_that_lie_transposed(tmp_path: Path, ids: Tensor) -> None:
    """GPT-2's are [in, out] in the files."""
    written = write(models.build("gpt2"), tmp_path / "m")
    assert written.linears["transformer.h.0.mlp.c_fc"].weight.shape == (32, 48)
    loaded = load_fp8(written.folder)
    assert loaded.treatments["transformer.h.1.attn.c_attn"] == "fp8_tensor"
    assert db(loaded.logits(ids), expected(written, ids)) > NEAR_DB
    written = write(models.build("gpt2"), tmp_path / "token", "fp8_token")
    with pytest.raises(BadModel, match=r"is stored as \[in, out\], with more than one scale"):
        load_fp8(written.folder)


def test_the_dtype_that_is_asked_for(tmp_path: Path, ids: Tensor) -> None:
    written = write(models.build("llama"), tmp_path / "m", mixed)
    loaded = load_fp8(written.folder, dtype="bfloat16")
    logits = loaded.logits(ids)
    assert logits.dtype is torch.bfloat16
    assert db(logits, expected(written, ids)) > 15
    assert loaded.model.get_submodule("model.layers.0.mlp.up_proj").weight.dtype is torch.bfloat16


def test_shards_and_the_nested_file(tmp_path: Path, ids: Tensor) -> None:
    """Weights apart from their scales in two files, metadata in hf_quant_config.json alone."""
    written = write(models.build("llama"), tmp_path / "m", kv=(0.02, 0.01))
    want = load_fp8(written.folder).logits(ids)
    flat = written.config.pop("quantization_config")
    quantization = {"quant_algo": flat["quant_algo"], "kv_cache_quant_algo": "FP8"}
    nested = {"producer": {"name": "modelopt"}, "quantization": quantization}
    (written.folder / "hf_quant_config.json").write_text(json.dumps(nested))
    _shard(written)
    assert torch.equal(load_fp8(written.folder).logits(ids), want)


def test_as_transformers_runs_compressed_tensors(tmp_path: Path, ids: Tensor) -> None:
    """Its own loader and fake quantization, by the library of the format."""
    with warnings.catch_warnings():  # of libraries about each other
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        def choose(name: str) -> Treatment:
            return "bf16" if "o_proj" in name else mixed(name).replace("block", "token")  # type: ignore[return-value]

        written = write(models.build("llama"), tmp_path / "m", choose, layout="compressed-tensors")
        ignored = [n for n in _linear_names() if n not in written.linears]
        written.config["quantization_config"]["ignore"] = ignored
        written.save()
        theirs: Any = AutoModelForCausalLM.from_pretrained(written.folder)
        want = models.logits(theirs, ids)
    loaded = load_fp8(written.folder, gemm="dequantized")
    assert db(loaded.logits(ids), want) > NEAR_DB


def _linear_names() -> list[str]:
    model = models.build("llama")
    return [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]


def _kv(k: float, v: float, latent_dim: int = 0) -> KVScales:
    return KVScales(float(torch.tensor(k)), float(torch.tensor(v)), latent_dim)


def _shard(written: Written) -> None:
    from safetensors.torch import save_file

    written.weights.unlink()
    files = {
        n: f"model-0000{1 + n.endswith('scale')}-of-00002.safetensors" for n in written.tensors
    }
    for file in set(files.values()):
        tensors = {n: t for n, t in written.tensors.items() if files[n] == file}
        save_file(tensors, written.folder / file)
    index = {"metadata": {}, "weight_map": files}
    (written.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (written.folder / "config.json").write_text(json.dumps(written.config))
