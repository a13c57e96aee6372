"""Our model of FqnToConfig against torchao's own `quantize_`, and transformers' way through it.

A config of the test's own marks what it is applied to, so that none needs a GPU.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fp8scope.core.modules import Model, Treatment
from fp8scope.export.consumer import Config
from fp8scope.export.consumers import torchao as ours
from fp8scope.export.matchers import transformers_layers
from fp8scope.export.matchers.torchao_fqn import FLOAT8, read
from tests.export.shapes import DOWN0, llama, mixtral, network, phi3, planned

WORDS: dict[str, Treatment] = {"row": "fp8_token", "tensor": "fp8_tensor_dynamic"}
MODELS = {"llama": llama(), "mixtral": mixtral(experts=16), "phi3": phi3()}


pytestmark = [
    pytest.mark.filterwarnings("ignore:Config Deprecation. _default"),
    pytest.mark.filterwarnings("ignore:.*register_constant"),
]


@cache
def _mark() -> type[Any]:
    """A config that notes its word in the module it is applied to, as torchao's own take it."""
    from torchao.core.config import AOBaseConfig
    from torchao.quantization.transform_module import register_quantize_module_handler

    @dataclass
    class Mark(AOBaseConfig):  # type: ignore[misc]
        word: str = ""

    @register_quantize_module_handler(Mark)  # type: ignore[untyped-decorator]
    def _apply(module: nn.Module, mark: Mark, *, parameter_name: str = "weight") -> nn.Module:
        assert hasattr(module, parameter_name), "no such parameter"
        module.__dict__.setdefault("marks", {}).setdefault(parameter_name, []).append(mark.word)
        return module

    return Mark


class _Part(nn.Module):
    """A router's or an experts' module: parameters of its own."""


class _Tree(nn.Module):
    def get_input_embeddings(self) -> nn.Module:
        return nn.Identity()


def _tree(model: Model) -> _Tree:
    root = _Tree()
    for layer in transformers_layers.layers(model):
        first = layer.modules[0]
        if layer.kind == "experts":
            parent, _, name = layer.name.rpartition(".")
            _at(root, parent, _Part()).register_parameter(name, _parameter())
        elif transformers_layers.is_linear_class(model, first):
            _at(root, layer.name, nn.Linear(1, 1, bias=False, device="meta"))
        else:
            _at(root, layer.name, _Part()).register_parameter("weight", _parameter())
    return root


def _parameter() -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, device="meta"))


def _at(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The module at `name`, which is `module` where there was none; with all that holds it."""
    *parents, last = name.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if not hasattr(root, last):
        root.add_module(last, module)
    return getattr(root, last)  # type: ignore[no-any-return]


def _marks(root: nn.Module, layer_name: str, *, experts: bool) -> list[str]:
    module, _, parameter = layer_name.rpartition(".")
    if not experts:
        module, parameter = layer_name, "weight"
    found: list[str] = root.get_submodule(module).__dict__.get("marks", {}).get(parameter, [])
    return found


@st.composite
def _key(draw: st.DrawFn, names: list[str]) -> str:
    name = draw(st.sampled_from(names))
    parts = name.split(".")
    kind = draw(st.integers(0, 7))
    escaped = name.replace(".", r"\.")
    cut = draw(st.integers(1, len(parts)))
    return [
        name,
        f"{name}.weight",
        f"re:{escaped}",
        rf"re:{escaped}\.weight",
        r"re:.*\." + parts[-1] + draw(st.sampled_from(["", r"(\.weight)?", ".*"])),
        r"re:" + r"\.".join(parts[:cut]) + draw(st.sampled_from(["", r"\..*", r"\..*proj", "*"])),
        ".".join(parts[:cut]),
        draw(
            st.sampled_from(["_default", parts[-1], "re:.*mlp.*proj", f"re:{parts[-1]}", "re:*."])
        ),
    ][kind]


@st.composite
def _configs(draw: st.DrawFn, model: Model) -> dict[str, str | None]:
    names = [layer.name for layer in transformers_layers.layers(model)]
    keys = draw(st.lists(_key(names), min_size=1, max_size=4, unique=True))
    return {key: draw(st.sampled_from(["row", "tensor", None])) for key in keys}


_KINDS = {
    "row": {"type": FLOAT8, "granularity": "PerRow"},
    "tensor": {"type": FLOAT8, "granularity": "PerTensor"},
}


def _fqn(configs: dict[str, str | None]) -> Any:
    from torchao.quantization import FqnToConfig

    made = {key: word and _mark()(word=word) for key, word in configs.items()}
    return FqnToConfig(OrderedDict(made))


CASES = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def _load(quantizer: Any, root: nn.Module) -> None:
    """What transformers does with each parameter as it comes from the files."""
    from transformers.integrations import torchao as theirs

    quantize: Any = theirs.TorchAoQuantize
    for name, parameter in list(root.named_parameters()):
        if quantizer.param_needs_quantization(root, name):
            quantize(quantizer).convert(
                {name: parameter}, model=root, full_layer_name=name, missing_keys=set()
            )


def _error(act: Callable[[], object]) -> str:
    try:
        act()
    except Exception as error:
        return repr(error)
    return ""


@pytest.mark.parametrize("family", MODELS)
def test_quantize_agrees(family: str) -> None:
    """Each example holds every layer of the model: over 500 pairs of a config and a layer."""
    from torchao.quantization import quantize_

    model = MODELS[family]
    seen = {"layers": 0, "raised": 0, "quantized": 0}

    @CASES
    @given(_configs(model))
    def agrees(configs: dict[str, str | None]) -> None:
        data = {key: word and _KINDS[word] for key, word in configs.items()}
        reading = read(Config("torchao", data, "test"), model, "0.18.0")
        outcomes = [(layer, reading.outcome(layer)) for layer in reading.layers]
        raises = any(
            "raises" in outcome.error or "re.error" in outcome.error for _, outcome in outcomes
        )
        root = _tree(model)
        error = _error(lambda: quantize_(root, _fqn(configs), filter_fn=None))
        assert bool(error) == raises, (configs, error)
        if error:
            seen["raised"] += 1
            return
        for layer, outcome in outcomes:
            marks = _marks(root, layer.name, experts=layer.kind == "experts")
            seen["layers"] += 1
            seen["quantized"] += bool(marks)
            if len(marks) > 1:
                assert "twice" in outcome.error, (configs, layer.name)
            elif "takes PerRow only" in outcome.error:
                assert marks == ["tensor"], (configs, layer.name)
            else:
                word = WORDS[marks[0]] if marks else "bf16"
                assert outcome.treatment == word, (configs, layer.name, outcome)

    agrees()
    assert seen["layers"] > 500
    assert seen["raised"] > 5
    assert seen["quantized"] > 30


@pytest.mark.parametrize("family", MODELS)
def test_transformers_way_agrees(family: str) -> None:
    from transformers import TorchAoConfig
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    model = MODELS[family]
    seen = {"layers": 0, "quantized": 0}

    @CASES
    @given(_configs(model), st.sampled_from([[], [DOWN0], ["lm_head"], ["up_proj"]]))
    def agrees(configs: dict[str, str | None], skipped: list[str]) -> None:
        data = {key: word and _KINDS[word] for key, word in configs.items()}
        whole = {"_type": "FqnToConfig", "_data": {"fqn_to_config": data}}
        given_ = {"quant_type": {"default": whole}, "modules_to_not_convert": skipped}
        reading = read(Config("torchao", given_, "test"), model, "0.18.0")
        outcomes = {layer.name: reading.outcome(layer) for layer in reading.layers}
        quantizer = TorchAoHfQuantizer(TorchAoConfig(_fqn(configs)), pre_quantized=False)
        quantizer.modules_to_not_convert = skipped
        quantizer.offload_to_cpu = False
        root = _tree(model)
        broken = any("re.error" in outcome.error for outcome in outcomes.values())
        error = _error(lambda: _load(quantizer, root))
        assert broken or not error, (configs, error)
        if error:
            return
        for layer in reading.layers:
            outcome = outcomes[layer.name]
            marks = _marks(root, layer.name, experts=layer.kind == "experts")
            seen["layers"] += 1
            seen["quantized"] += bool(marks)
            if "takes PerRow only" in outcome.error:
                assert marks == ["tensor"]
            elif not broken:
                word = WORDS[marks[0]] if marks else "bf16"
                assert outcome.treatment == word, (configs, layer.name, outcome)

    agrees()
    assert seen["layers"] > 500
    assert seen["quantized"] > 30


def test_both_stacks_none_raise_index_error() -> None:
    """Why they are left out of what is written."""
    from torchao.quantization import quantize_

    model = mixtral()
    names = [f"model.layers.0.mlp.experts.{stack}" for stack in ("gate_up_proj", "down_proj")]
    with pytest.raises(IndexError, match="pop index out of range"):
        quantize_(_tree(model), _fqn(dict.fromkeys(names)), filter_fn=None)


@pytest.mark.parametrize(
    ("family", "treatment"),
    [("llama", "fp8_block"), ("mixtral", "fp8_token"), ("phi3", "fp8_token")],
)
def test_written_python_runs_and_reaches_just_the_layers_that_are_wanted(
    family: str, treatment: Treatment
) -> None:
    from torchao.core.config import config_from_dict, config_to_dict
    from torchao.quantization import FqnToConfig, fqn_matches_fqn_config
    from transformers import TorchAoConfig

    model = planned(MODELS[family], treatment, [DOWN0, "model.layers.1.mlp.experts"])
    document = ours.write(model)
    space: dict[str, Any] = {}
    exec(document.forms["python"].text, space)  # noqa: S102
    config = space["config"]
    assert isinstance(config, FqnToConfig)
    assert config_to_dict(config_from_dict(config_to_dict(config))) == config_to_dict(config)
    through: Any = TorchAoConfig(config, modules_to_not_convert=[])
    loaded = through.to_dict()
    for data in (config_to_dict(config), loaded, document.config):
        reading = read(Config("torchao", data, "test"), model, "0.18.0")
        for layer in reading.layers:
            assert reading.outcome(layer).treatment == transformers_layers.wanted(layer), layer.name
    for layer in transformers_layers.layers(model):
        wanted = transformers_layers.wanted(layer)
        assert fqn_matches_fqn_config(layer.name, config) or wanted == "bf16"
        assert (config.fqn_to_config.get(layer.name) is not None) == (wanted != "bf16")


def test_written_json_is_what_transformers_reads_from_config_json() -> None:
    from torchao.core.config import config_to_dict
    from transformers import TorchAoConfig

    model = planned(llama(), "fp8_block", [DOWN0])
    document = ours.write(model)
    space: dict[str, Any] = {}
    exec(document.forms["python"].text, space)  # noqa: S102
    kind: Any = TorchAoConfig
    read = kind.from_dict(json.loads(document.forms["json"].text))
    assert config_to_dict(read.quant_type) == config_to_dict(space["config"])
    assert read.modules_to_not_convert == []


@pytest.mark.parametrize("family", ["llama", "mixtral", "phi3"])
def test_written_python_makes_float8_of_just_what_is_wanted(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchao quantizes a random model of transformers; only its products need a GPU."""
    from torchao.quantization import quant_api, quantize_

    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda _: None)
    shape = {"llama": llama(), "mixtral": mixtral(), "phi3": phi3()}[family]
    kept = [DOWN0, "model.layers.1.mlp.experts"]
    block = "model.layers.1.mlp.down_proj"
    model = planned(shape, "fp8_token", kept)
    model = model.with_wanted(lambda m: "fp8_block" if m.runtime == block else m.wanted)
    space: dict[str, Any] = {}
    exec(ours.write(model).forms["python"].text, space)  # noqa: S102
    real = network(family, "cpu")
    quantize_(real, space["config"], filter_fn=None)
    found: dict[str, Treatment] = {}
    for layer in transformers_layers.layers(model):
        name = layer.name if layer.kind == "experts" else f"{layer.name}.weight"
        weight = real.get_parameter(name)
        found[layer.name] = "bf16"
        if hasattr(weight, "block_size"):
            rows, columns = weight.block_size[-2:]
            found[layer.name] = "fp8_block" if rows == 128 else "fp8_token"
            assert columns == (128 if rows == 128 else weight.shape[-1])
    assert found == {
        layer.name: transformers_layers.wanted(layer) for layer in transformers_layers.layers(model)
    }
    assert sum(treatment == "bf16" for treatment in found.values()) == (
        5 if family == "mixtral" else 2
    )
