"""Our model of compressed-tensors' matcher against the library, and what we write in its parser."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fp8scope.checkpoint.schemes import SCHEMES, scheme
from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import CannotRead, Config, Reading
from fp8scope.export.consumers import compressed_tensors
from fp8scope.export.matchers import compressed_targets
from tests import models
from tests.export import mixes
from tests.export.shapes import gpt2, llama, mixtral

with warnings.catch_warnings():  # of libraries about each other
    warnings.simplefilter("ignore")
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
    from compressed_tensors.utils.match import is_match
    from transformers import AutoModelForCausalLM, PreTrainedModel
    from transformers.utils.quantization_config import CompressedTensorsConfig

EXAMPLES = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPES: dict[str, Model] = {"llama": llama(), "mixtral": mixtral(), "gpt2": gpt2()}
BARE: dict[str, Any] = {"config_groups": {}, "ignore": []}


@pytest.fixture(scope="module")
def trees() -> dict[str, nn.Module]:
    return {name: models.build(name) for name in SHAPES}


def _read(data: dict[str, Any], model: Model) -> Reading:
    return compressed_tensors.read(Config("compressed-tensors", data, "config.json"), model, "")


NAMES = tuple(layer.name for shape in SHAPES.values() for layer in _read(BARE, shape).layers)
PIECES = (
    "model", "layers", "0", "1", "10", "self_attn", "q_proj", "o_proj", "mlp", "gate", "gate_proj",
    "down_proj", "experts", "lm_head", "transformer", "c_fc", "Linear", "Module", "linear",
    "Conv1D", "MixtralTopKRouter", "", "weight",
)  # fmt: skip
EXPRESSIONS = (
    ".*", r".*\.down_proj$", ".*self_attn", r"model\.layers\.1", r"model\.layers\.[01]\.mlp.*",
    "lm_head", ".*gate", r"(?!.*lm_head).*", "^model.*proj$", "down_proj", ".*experts.*", "",
    "Linear",
)  # fmt: skip


@st.composite
def targets(draw: st.DrawFn) -> str:
    """Names, their parts, classes, and regular expressions, escaped or not."""
    if draw(st.integers(0, 3)) == 0:
        parts = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
        return draw(st.sampled_from(("", "re:"))) + ".".join(parts)
    if draw(st.booleans()):
        return "re:" + draw(st.sampled_from(EXPRESSIONS))
    name = draw(st.sampled_from(NAMES))
    end = draw(st.integers(0, len(name)))
    start = draw(st.sampled_from(("", "re:", "re:.*", "re:^")))
    return start + draw(st.sampled_from((name, name[:end], name[end:], f"{name}$", f"{name}.*")))


PRESETS = ("FP8", "FP8_DYNAMIC", "FP8_BLOCK", "fp8", "W8A8", "UNQUANTIZED")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    listed = st.lists(st.one_of(targets(), st.sampled_from(NAMES)), min_size=1, max_size=4)
    for number in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            groups[draw(st.sampled_from(PRESETS))] = draw(listed)
        else:
            arguments = SCHEMES[draw(st.sampled_from(sorted(SCHEMES)))]
            groups[f"group_{number}"] = {"targets": draw(listed), **arguments}
    return {"config_groups": groups, "ignore": draw(st.lists(targets(), max_size=4))}


@settings(EXAMPLES, max_examples=600)
@given(target=targets())
def test_one_target_on_every_module(trees: dict[str, nn.Module], target: str) -> None:
    for name, shape in SHAPES.items():
        reading = _read(BARE, shape)
        for layer in _in(trees[name], reading):
            module = trees[name].get_submodule(layer)
            classes = reading._classes(layer)  # type: ignore[attr-defined]
            if target not in {"Conv1D", "MixtralTopKRouter"}:  # classes that are never quantized
                ours = compressed_targets.hits(target, layer, classes)
                assert ours == is_match(layer, module, target), layer


def _in(tree: nn.Module, reading: Reading) -> Iterator[str]:
    known = dict(tree.named_modules())
    yield from (layer.name for layer in reading.layers if layer.name in known)


@settings(EXAMPLES, max_examples=60)
@given(config=configs())
def test_whole_configs(trees: dict[str, nn.Module], config: dict[str, Any]) -> None:
    parsed = QuantizationConfig.model_validate(copy.deepcopy(config))
    for name, shape in SHAPES.items():
        tree = copy.deepcopy(trees[name])
        apply_quantization_config(tree, parsed, show_progress=False)
        reading = _read(config, shape)
        for layer in reading.layers:
            if layer.kind != "experts":  # which transformers loads by their scales
                assert reading.outcome(layer).treatment == _treatment(tree, layer.name), layer.name


def _treatment(tree: nn.Module, name: str) -> Treatment:
    found = getattr(tree.get_submodule(name), "quantization_scheme", None)
    if found is None:
        return "bf16"
    sides = (found.weights, found.input_activations)
    return scheme(*(side and side.model_dump() for side in sides))


@pytest.mark.parametrize("name", mixes.MODELS)
def test_what_is_written_in_the_librarys_and_transformers_parsers(
    name: str, trees: dict[str, nn.Module]
) -> None:
    model = mixes.MODELS[name]
    data = json.loads(compressed_tensors.write(model).forms["json"].text)
    parsed = QuantizationConfig.model_validate(data)
    loaded = CompressedTensorsConfig.from_dict(data)  # type: ignore[no-untyped-call]
    assert loaded.quantization_config == parsed
    assert parsed.format == "float-quantized"
    assert (parsed.kv_cache_scheme is not None) == (model.kv_cache == "fp8")
    listed = [target for group in parsed.config_groups.values() for target in group.targets]
    assert len(listed) == len(set(listed))
    assert {m.name for m in model.modules if m.wanted != "bf16"} <= set(listed)
    parsed.kv_cache_scheme = None  # it is no matter of layers
    tree = copy.deepcopy(trees[name])
    apply_quantization_config(tree, parsed, show_progress=False)
    for module in model.modules:
        if module.kind != "expert":
            assert _treatment(tree, module.runtime) == module.wanted, module.name


def _save_in_fp8(folder: Path, model: PreTrainedModel, *, rows: int, ignore: list[str]) -> None:
    """A checkpoint whose experts have a scale for each row, or for blocks of `rows` x 128."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        weight = tensors[name]
        blocks = weight.reshape(
            weight.shape[0] // rows, rows, -1, 128 if rows > 1 else weight.shape[1]
        )
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        tensors[name] = (blocks / scales).reshape(weight.shape).to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + "weight_scale"] = (
            scales.squeeze((1, 3)) if rows > 1 else scales.reshape(-1, 1)
        )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    groups = {
        "group_0": {
            "targets": ["re:.*experts.*"],
            **SCHEMES["fp8_block" if rows > 1 else "fp8_token"],
        }
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("ignore", [[], ["re:.*experts.*"]], ids=["targeted", "ignored"])
def test_transformers_loads_experts_by_their_scales(tmp_path: Path, ignore: list[str]) -> None:
    model = models.build("mixtral", hidden_size=256, intermediate_size=256)
    _save_in_fp8(tmp_path, model, rows=1, ignore=ignore)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for stack in ("gate_up_proj", "down_proj"):
        name = f"model.layers.1.mlp.experts.{stack}"
        error = (loaded.get_parameter(name) - model.get_parameter(name)).norm()
        assert error / model.get_parameter(name).norm() < 0.04


def test_transformers_cannot_load_experts_by_scales_of_blocks(tmp_path: Path) -> None:
    model = models.build("mixtral", hidden_size=256, intermediate_size=256)
    _save_in_fp8(tmp_path, model, rows=128, ignore=[])
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_presets_are_those_of_the_library() -> None:
    known = {*compressed_targets.PRESETS, *compressed_tensors.NEWER}
    assert known == set(PRESET_SCHEMES)
    for name, sides in PRESET_SCHEMES.items():
        arguments = [sides.get(side) for side in ("weights", "input_activations")]
        dumped = [each and each.model_dump() for each in arguments]
        treatment = compressed_targets.preset(name, "", compressed_tensors.NEWER)
        assert treatment == scheme(*dumped), name


FLOAT8 = {"num_bits": 8, "type": "float"}
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"strategy": "tensor"},
    {"strategy": "TENSOR"},
    {"strategy": "channel"},
    {"group_size": -1},
    {"group_size": 128},
    {"strategy": "group"},
    {"strategy": "group", "group_size": 128},
    {"strategy": "channel", "group_size": 128},
    {"strategy": "token"},
    {"strategy": "token", "dynamic": True},
    {"strategy": "block"},
    {"strategy": "block", "block_structure": [128, 128]},
    {"strategy": "block", "block_structure": "128x128"},
    {"strategy": "tensor", "block_structure": [128, 128]},
    {"strategy": "block", "block_structure": [128, 128], "dynamic": True},
    {"dynamic": True},
)


@pytest.mark.parametrize("side", ["weights", "input_activations"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=map(str, ARGUMENTS))
def test_arguments_that_the_library_refuses(side: str, arguments: dict[str, Any]) -> None:
    other = {"weights": "input_activations", "input_activations": "weights"}[side]
    group = {side: FLOAT8 | arguments, other: SCHEMES["fp8_token"][other]}
    data = {"config_groups": {"group_0": {"targets": ["Linear"], **group}}}
    try:
        QuantizationConfig.model_validate(copy.deepcopy(data))
    except (ValueError, NotImplementedError):
        with pytest.raises(CannotRead):
            _read(data, llama())
    else:
        assert _read(data, llama()).layers
