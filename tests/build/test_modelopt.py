"""ModelOpt as it is used here: told by exact names, with the plan's scales, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fp8scope.artefacts.plan import Plan
from fp8scope.build import modelopt
from fp8scope.build.folds import fold_plan
from fp8scope.build.scales import in_files, static_scales
from fp8scope.checkpoint.planned import planned_model
from fp8scope.core.formats import E4M3
from fp8scope.errors import BadInput
from fp8scope.export.checking import export_plan
from fp8scope.runtime.fake_quant import round_to
from fp8scope.runtime.loading import LoadOptions, load
from tests.build.planned import MIX, mixed_plan, scanned

FAMILIES = (
    ("llama", "float32"), ("llama", "bfloat16"), ("mixtral", "bfloat16"), ("phi3", "bfloat16"),
)  # fmt: skip
STATIC = ("fp8_smooth", "fp8_tensor", "bf16")


def folded(
    name: str, mix: tuple[str, ...] = MIX, dtype: str = "float32", **wishes: Any
) -> tuple[Any, Plan]:
    """A model with its plan's smoothing folded."""
    plan, factors = mixed_plan(scanned(name), mix, **wishes)
    model = load(str(scanned(name).folder), LoadOptions(dtype=dtype)).model
    fold_plan(model, plan, factors)
    return model, plan


def mix_for(name: str) -> tuple[str, ...]:
    """Experts per token are what ModelOpt's metadata cannot say."""
    return STATIC if name == "mixtral" else MIX


@pytest.fixture(scope="module", params=FAMILIES, ids="-".join)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The plan, what was written, and the folded weights that it was made from."""
    name, dtype = request.param
    model, plan = folded(name, mix_for(name), dtype)
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder / "folded")
    modelopt.quantize(model, plan, static_scales(model, plan))
    modelopt.export(model, folder / "fp8", 10**9)
    read = (load_file(folder / part / "model.safetensors") for part in ("fp8", "folded"))
    return plan, next(read), next(read)


def test_every_linear_is_stored_as_planned(exported: Any) -> None:
    plan, tensors, before = exported
    for module in planned_model(plan).modules:
        weight = tensors[f"{module.name}.weight"]
        scale = tensors.get(f"{module.name}.weight_scale")
        shapes = {"fp8_tensor": (), "fp8_token": (module.out_features,), "bf16": None}
        own = before[f"{module.name}.weight"].dtype
        wanted = own if module.wanted == "bf16" else torch.float8_e4m3fn
        assert (module.name, weight.dtype) == (module.name, wanted)
        assert (None if scale is None else tuple(scale.shape)) == shapes[str(module.wanted)]
        has_static = f"{module.name}.input_scale" in tensors
        assert (module.name, has_static) == (module.name, module.wanted == "fp8_tensor")


def test_the_codes_are_those_of_our_own_rounding(exported: Any) -> None:
    plan, tensors, before = exported
    for module in planned_model(plan).modules:
        if module.wanted == "bf16":
            continue
        weight, name = before[f"{module.name}.weight"].float(), module.name
        scale = tensors[f"{name}.weight_scale"]
        codes = round_to(E4M3, weight / (scale[:, None] if scale.ndim else scale))
        differ = int((tensors[f"{name}.weight"].float() != codes).sum())
        assert (name, differ) == (name, 0)


def test_scales_are_those_of_the_plan_and_the_same_in_a_fused_group(exported: Any) -> None:
    plan, tensors, before = exported
    planned = {m: s for g in plan.groups for s in g.scales for m in s.members}
    groups: dict[Any, set[float]] = {}
    for module in planned_model(plan).modules:
        if module.wanted != "fp8_tensor":
            continue
        found = float(tensors[f"{module.name}.input_scale"])
        assert found == np.float32(planned[module.runtime].input_scale)
        amax = float(before[f"{module.name}.weight"].abs().max())
        scale = float(tensors[f"{module.name}.weight_scale"])
        assert scale >= np.float32(amax / E4M3.max) * (1 - 1e-6)
        number = module.name.split(".experts.")[-1].split(".")[0] if module.kind == "expert" else ""
        groups.setdefault((module.runtime if number else module.group, number), set()).add(scale)
    assert groups
    assert all(len(scales) == 1 for scales in groups.values()), groups


def test_scales_of_the_cache_are_those_of_the_plan(exported: Any) -> None:
    plan, tensors, _ = exported
    for cache in plan.kv_cache:
        k, v = (tensors[f"{cache.attention}.{x}_proj.{x}_scale"] for x in "kv")
        np.testing.assert_allclose([float(k), float(v)], [cache.k_scale, cache.v_scale], rtol=1e-6)


def test_static_scales_are_given_by_the_names_of_the_files() -> None:
    model, plan = folded("mixtral", STATIC)
    scales = static_scales(model, plan)
    files = in_files(plan, scales)
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    assert [s.weight for s in scales[stack]] == [
        pytest.approx(float(one.abs().max()) / 448, rel=1e-6)
        for one in model.get_parameter(stack).detach()
    ]
    for expert, static in enumerate(scales[stack]):
        for part in ("w1", "w3"):
            name = f"model.layers.0.block_sparse_moe.experts.{expert}.{part}"
            assert files[name] == static


def test_a_quantizer_that_is_not_as_planned_stops_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A glob that matches nothing says nothing: here the list lacks one layer."""
    model, plan = folded("llama", ("fp8_tensor",))
    whole = export_plan(plan, "modelopt")
    lacking = [e for e in whole.config["quant_cfg"] if "layers.1.mlp.down" not in str(e)]
    monkeypatch.setattr(modelopt, "export_plan", lambda *_: _Document({"quant_cfg": lacking}))
    with pytest.raises(BadInput, match=r"layers\.1\.mlp\.down_proj.*and has none"):
        modelopt.quantize(model, plan, static_scales(model, plan))


def test_a_quantizer_that_nobody_planned_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = folded("llama", ("fp8_tensor",))
    listed = export_plan(plan, "modelopt").config["quant_cfg"]
    more = [*listed, {"quantizer_name": "*lm_head.weight_quantizer", "enable": True}]
    monkeypatch.setattr(modelopt, "export_plan", lambda *_: _Document({"quant_cfg": more}))
    with pytest.raises(BadInput, match=r"quantizes lm_head\.weight_quantizer, which the plan does"):
        modelopt.quantize(model, plan, static_scales(model, plan))


class _Document:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def test_a_latent_cache_has_no_quantizer() -> None:
    model, plan = folded("deepseek_v3", STATIC, cache=True)
    with pytest.raises(BadInput, match=r"no quantizer for the latent that model\.layers\.0"):
        modelopt.quantize(model, plan, static_scales(model, plan))


def test_what_modelopt_fails_at_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("Modules have different quantization formats")

    model, plan = folded("llama", STATIC)
    modelopt.quantize(model, plan, static_scales(model, plan))
    monkeypatch.setattr("modelopt.torch.export.export_hf_checkpoint", fails)
    match = r"ModelOpt cannot export this model \(Modules have different .*--format compressed"
    with pytest.raises(BadInput, match=match):
        modelopt.export(model, tmp_path, 10**9)


def test_gradient_checkpointing_and_gradients_stay_as_they_were() -> None:
    model, plan = folded("llama", STATIC)
    modelopt.quantize(model, plan, static_scales(model, plan))
    assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
    assert not any(p.grad is not None for p in model.parameters())


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, plan = folded("llama", STATIC)
    modelopt.quantize(model, plan, static_scales(model, plan))
    modelopt.export(model, tmp_path, 10**9)
    assert capsys.readouterr().out == ""


def test_a_model_without_architectures_is_exported_all_the_same(tmp_path: Path) -> None:
    model, plan = folded("llama", STATIC)
    model.config.architectures = None
    modelopt.quantize(model, plan, static_scales(model, plan))
    modelopt.export(model, tmp_path, 10**9)
    assert (tmp_path / "model.safetensors").is_file()
    assert isinstance(model, nn.Module)
