"""A checkpoint that would run as something else than its files say is refused, by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fp8scope.errors import BadInput, BadModel, Missing
from fp8scope.runtime.fp8.checkpoint import load_fp8
from tests import models
from tests.runtime.fp8.checkpoints import Written, write

Q = "model.layers.0.self_attn.q_proj"
K = "model.layers.1.self_attn.k_proj"
Spoil = Callable[[Written], Any]


def _set(name: str, value: Any) -> Spoil:
    return lambda written: written.tensors.__setitem__(name, value)


def _drop(name: str) -> Spoil:
    return lambda written: written.tensors.pop(name)


def _say(**words: Any) -> Spoil:
    def change(written: Written) -> None:
        written.config["quantization_config"].update(words)

    return change


def _nan_code(written: Written) -> None:
    written.tensors[f"{Q}.weight"].view(torch.uint8)[3, 4] = 0xFF


def _narrow(written: Written) -> None:
    written.tensors[f"{Q}.weight"] = written.tensors[f"{Q}.weight"][:, :16]


def _embedding(written: Written) -> None:
    written.tensors["model.embed_tokens.weight"] = torch.zeros(96, 32).to(torch.float8_e4m3fn)
    for scale in ("weight_scale", "input_scale"):
        written.tensors[f"model.embed_tokens.{scale}"] = torch.ones(())


TENSORS: dict[str, tuple[Spoil, str]] = {
    "no weight scale": (_drop(f"{Q}.weight_scale"), f"{Q}.weight is FP8 and has no weight_scale"),
    "no input scale": (
        _drop(f"{Q}.input_scale"),
        f"{Q}.weight is stored as FP8 per tensor, dynamic input scales, the metadata says FP8 per "
        f"tensor, static, and {Q}.input_scale is missing",
    ),
    "odd weight scale": (
        _set(f"{Q}.weight_scale", torch.ones(3)),
        f"{Q}.weight_scale is [3], which fits no scheme of a weight [48, 32]",
    ),
    "odd input scale": (
        _set(f"{Q}.input_scale", torch.ones(32)),
        f"{Q}.input_scale is [32], not a scalar",
    ),
    "scales by channel": (
        _set(f"{Q}.weight_scale", torch.ones(48)),
        f"{Q}.weight is stored as FP8 per token, the metadata says FP8 per tensor, static",
    ),
    "NaN scale": (
        _set(f"{Q}.weight_scale", torch.tensor(torch.nan)),
        f"{Q}.weight_scale holds nan",
    ),
    "negative scale": (_set(f"{Q}.weight_scale", torch.tensor(-0.5)), "weight_scale holds -0.5"),
    "zero input scale": (_set(f"{Q}.input_scale", torch.tensor(0.0)), "input_scale holds 0,"),
    "NaN code": (_nan_code, f"{Q}.weight holds 1 NaN"),
    "another float8": (
        _set(f"{Q}.weight", torch.zeros(48, 32, dtype=torch.float8_e5m2)),
        f"{Q}.weight is F8_E5M2 [48, 32]",
    ),
    "BF16 weight, scales left": (
        _set(f"{Q}.weight", torch.zeros(48, 32)),
        f"{Q}.input_scale is a scale of no FP8 weight",
    ),
    "weight of another shape": (
        _narrow,
        f"have another shape than config.json says, e.g. {Q}.weight",
    ),
    "no weight": (
        lambda w: [w.tensors.pop(f"{Q}.{n}") for n in ("weight", "weight_scale", "input_scale")],
        f"1 tensors of the model are not in {{folder}}, e.g. {Q}.weight",
    ),
    "no norm": (_drop("model.norm.weight"), "are not in {folder}, e.g. model.norm.weight"),
    "unknown tensor": (
        _set("model.layers.0.mlp.extra.weight", torch.ones(3)),
        "are unknown to the model, e.g. model.layers.0.mlp.extra.weight",
    ),
    "unknown scale": (_set(f"{Q}.output_scale", torch.ones(())), f"e.g. {Q}.output_scale"),
    "FP8 embedding": (
        _embedding,
        "model.embed_tokens.weight is FP8, and is the weight of no linear",
    ),
    "NaN in a norm": (
        _set("model.norm.weight", torch.full((32,), torch.nan)),
        "model.norm.weight holds 32 inf or NaN",
    ),
    "no k_scale": (_drop(f"{K}.k_scale"), "model.layers.1.self_attn has no k_scale"),
    "no KV scale of a layer": (
        lambda w: [w.tensors.pop(f"model.layers.1.self_attn.{r}_proj.{r}_scale") for r in "kv"],
        "the metadata says that the KV cache is FP8, and model.layers.1.self_attn has no k_scale",
    ),
    "KV scales by head": (_set(f"{K}.k_scale", torch.ones(2)), f"{K}.k_scale is [2], not a scalar"),
    "zero KV scale": (_set(f"{K}.k_scale", torch.tensor(0.0)), f"{K}.k_scale holds 0,"),
    "KV scale of no layer": (
        _set("model.layers.7.self_attn.k_proj.k_scale", torch.ones(())),
        "model.layers.7.self_attn.k_proj.k_scale is the scale of no KV cache",
    ),
}
METADATA: dict[str, tuple[Spoil, str]] = {
    "not quantized": (
        lambda w: w.config.pop("quantization_config"),
        "{folder} is not quantized",
    ),
    "another method": (_say(quant_method="gptq"), "{folder} is quantized by gptq"),
    "another algorithm": (_say(quant_algo="NVFP4"), "another quantization than FP8 W8A8"),
    "another cache": (_say(kv_cache_scheme={"type": "int", "num_bits": 8}), "its KV cache is"),
    "dynamic cache": (
        _say(kv_cache_scheme={"type": "float", "num_bits": 8, "dynamic": True}),
        "its KV cache is quantized as",
    ),
    "weights alone": (
        _say(
            quant_method="compressed-tensors",
            config_groups={"g": {"weights": {"num_bits": 8, "type": "float"}}},
        ),
        "another quantization than FP8 W8A8 (compressed-tensors)",
    ),
    "no groups": (_say(quant_method="compressed-tensors"), "has no config_groups"),
    "one scale for a pass": (
        _say(
            quant_method="compressed-tensors",
            config_groups={
                "g": {
                    "weights": {"num_bits": 8, "type": "float"},
                    "input_activations": {"num_bits": 8, "type": "float", "dynamic": True},
                }
            },
        ),
        "g makes one input scale for all tokens of a pass",
    ),
    "foreign code": (
        lambda w: w.config.update(model_type="odd", auto_map={"AutoModelForCausalLM": "x.Y"}),
        "wants to run its own code",
    ),
    "unknown model": (lambda w: w.config.update(model_type="odd"), "transformers cannot build"),
}


@pytest.fixture
def healthy(tmp_path: Path) -> Written:
    return write(models.build("llama"), tmp_path / "m", kv=(0.02, 0.01))


def _refused(written: Written, spoil: Spoil, says: str) -> None:
    load_fp8(written.folder)
    spoil(written)
    with pytest.raises(BadModel) as refusal:
        load_fp8(written.save())
    assert says.format(folder=written.folder) in refusal.value.what
    assert refusal.value.remedy


@pytest.mark.parametrize("fault", TENSORS)
def test_tensors(healthy: Written, fault: str) -> None:
    _refused(healthy, *TENSORS[fault])


@pytest.mark.parametrize("fault", METADATA)
def test_metadata(healthy: Written, fault: str) -> None:
    _refused(healthy, *METADATA[fault])


def test_a_static_scale_beside_scales_by_channel(tmp_path: Path) -> None:
    """ModelOpt's mislabelled mix: engines have no kernel for it."""
    written = write(models.build("llama"), tmp_path / "m", "fp8_token")
    spoil = _set(f"{Q}.input_scale", torch.tensor(0.1))
    _refused(written, spoil, f"{Q}.input_scale is a static scale beside a weight FP8 per token")


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_experts_of_two_kinds(tmp_path: Path, name: str) -> None:
    written = write(models.build("mixtral"), tmp_path / "m")
    module = f"model.layers.1.block_sparse_moe.experts.2.{name}"

    def plain(written: Written) -> None:
        written.tensors[f"{module}.weight"] = written.tensors[f"{module}.weight"].float()
        del written.tensors[f"{module}.weight_scale"], written.tensors[f"{module}.input_scale"]

    _refused(written, plain, f"{module}.weight is not, of one layer's experts")


def test_experts_in_two_schemes(tmp_path: Path) -> None:
    written = write(
        models.build("mixtral"),
        tmp_path / "m",
        lambda n: "fp8_token" if "3.w1" in n else "fp8_tensor",
    )
    with pytest.raises(BadModel, match=r"experts\.3\.w1\.weight .* quantized in two ways"):
        load_fp8(written.folder)


def test_a_router(tmp_path: Path) -> None:
    written = write(models.build("mixtral"), tmp_path / "m")
    gate = "model.layers.0.block_sparse_moe.gate"

    def quantize(written: Written) -> None:
        written.tensors[f"{gate}.weight"] = torch.zeros(4, 32).to(torch.float8_e4m3fn)
        written.tensors |= {f"{gate}.{s}_scale": torch.ones(()) for s in ("weight", "input")}

    _refused(
        written, quantize, f"{gate}.weight is FP8, which is not run in model.layers.0.mlp.gate"
    )


def test_no_tokenizer_and_no_folder(healthy: Written) -> None:
    for file in healthy.folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadModel, match="has no tokenizer that loads"):
        load_fp8(healthy.folder)
    with pytest.raises(BadModel, match=r"has no config\.json"):
        load_fp8(healthy.folder / "nothing")
    with pytest.raises(BadInput, match="there is no device moon"):
        load_fp8(healthy.folder, device="moon")


def test_a_gpu_without_fp8(healthy: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fp8scope.runtime.fp8.checkpoint.check_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(Missing, match=r"cuda:0 has no FP8 GEMM \(compute capability 8\.6"):
        load_fp8(healthy.folder, device="cuda:0")


def test_a_broken_nested_file(healthy: Written) -> None:
    path = healthy.folder / "hf_quant_config.json"
    for text, says in (("{", "cannot read"), ("[]", "is not a JSON object")):
        path.write_text(text)
        with pytest.raises(BadModel, match=says):
            load_fp8(healthy.folder)
    path.write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    assert load_fp8(healthy.folder).kv_scales  # config.json is believed first
