"""Our model of `modules_to_not_convert` against transformers' own code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fp8scope.core.modules import Model, Module, Treatment
from fp8scope.export.consumer import Config
from fp8scope.export.consumers import transformers as ours
from fp8scope.export.matchers import transformers_layers
from tests.export.shapes import DOWN0, gpt2, llama, mixtral, network, phi3, plain, planned

MODELS = {"llama": llama(), "mixtral": mixtral(), "phi3": phi3()}
LIST = "modules_to_not_convert"
L1, L10 = "model.layers.1", "model.layers.10"
GATE_UP = f"{L1}.mlp.gate_up_proj"


def _skipped(patterns: list[str], name: str) -> bool | str:
    from transformers.quantizers.quantizers_utils import should_convert_module

    try:
        return not should_convert_module(name, patterns)
    except re.error:
        return "re.error"


def _ours(patterns: list[str], name: str) -> bool | str:
    if transformers_layers.broken(patterns):
        return "re.error"
    return any(transformers_layers.skips(each, name) for each in patterns)


@pytest.mark.parametrize(
    ("patterns", "name", "answer"),
    [
        ([f"{L1}.self_attn.{n}_proj" for n in "qkv"], f"{L1}.self_attn.k_proj", True),
        (["*.q_proj", "*.k_proj", "*.v_proj"], f"{L1}.self_attn.q_proj", "re.error"),
        ([f"{L1}.self_attn*"], f"{L1}.self_attn.o_proj", True),
        ([L1], f"{L10}.mlp.down_proj", False),
        ([f"{L1}*"], f"{L10}.mlp.down_proj", True),
        (["re:.*down_proj$"], f"{L1}.mlp.down_proj", False),
        (["down_proj"], f"{L1}.mlp.down_proj", True),
        (["mlp.gate"], GATE_UP, False),
        ([f"{L1}.mlp.down_proj"], f"{L1}.mlp.down_proj", True),
    ],
)
def test_rows_of_the_notes(patterns: list[str], name: str, answer: bool | str) -> None:
    """What each kind of entry does, as measured: theirs and ours."""
    assert _skipped(patterns, name) == answer
    assert _ours(patterns, name) == answer


@st.composite
def _entry(draw: st.DrawFn, names: list[str]) -> str:
    """What people write: names, their parts, with stars, dots, expressions and slips."""
    name = draw(st.sampled_from(names))
    parts = name.split(".")
    first = draw(st.integers(0, len(parts) - 1))
    last = draw(st.integers(first + 1, len(parts)))
    text = ".".join(parts[first:last])
    cut = draw(st.integers(0, 3))
    text = text[: len(text) - cut] if cut < len(text) else text
    before = draw(st.sampled_from(["", "", "", "^", ".*", "*.", "re:", "."]))
    after = draw(st.sampled_from(["", "", "", "*", ".*", "$", "|lm_head", r"\.", "[0-9]+", "("]))
    return draw(st.sampled_from([before + text + after, before + re.escape(text) + after]))


NAMES = sorted(
    {layer.name for model in MODELS.values() for layer in transformers_layers.module_layers(model)}
    | {name.replace(".1.", ".10.") for name in (f"{L1}.mlp.down_proj", GATE_UP)}
    | {f"{L1}.mlp.gate", f"{L1}.mlp.gate_proj", "model.layers.1", "lm_head"}
)


def test_should_convert_module_agrees() -> None:
    """Over 500 pairs of an entry and a module."""
    seen = {True: 0, False: 0, "re.error": 0}

    @settings(max_examples=700, derandomize=True, deadline=None)
    @given(_entry(NAMES), st.sampled_from(NAMES))
    def agrees(entry: str, name: str) -> None:
        theirs = _skipped([entry], name)
        assert _ours([entry], name) == theirs, (entry, name)
        seen[theirs] += 1

    agrees()
    assert sum(seen.values()) >= 500
    assert min(seen.values()) > 20, seen


@cache
def _network(family: str) -> Any:
    return network(family)


def _parsed(kind: Any, data: dict[str, Any]) -> Any:
    return kind.from_dict(data)


def _converted(family: str, data: dict[str, Any]) -> set[str]:
    """Names of the modules that become FP8, by the quantizer of transformers."""
    from copy import deepcopy

    from transformers import FineGrainedFP8Config
    from transformers.integrations.finegrained_fp8 import FP8Experts, FP8Linear
    from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

    network = deepcopy(_network(family))
    config = _parsed(FineGrainedFP8Config, data)
    quantizer = FineGrainedFP8HfQuantizer(config, pre_quantized=False)
    quantizer._process_model_before_weight_loading(network)
    return {
        name
        for name, module in network.named_modules()
        if isinstance(module, FP8Linear | FP8Experts)
    }


def _expected(model: Model, data: dict[str, Any]) -> set[str]:
    reading = ours.read(Config("fp8", data, "test"), model, "5.23.0")
    outcomes = {layer.name: reading.outcome(layer) for layer in reading.layers}
    return {name for name, outcome in outcomes.items() if outcome.treatment != "bf16"}


@pytest.mark.parametrize("family", MODELS)
def test_names_are_those_of_the_network(family: str) -> None:
    modules = {name for name, _ in _network(family).named_modules()}
    assert {layer.name for layer in transformers_layers.module_layers(MODELS[family])} <= modules


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.filterwarnings("ignore:.*register_constant")
def test_the_walk_agrees(family: str) -> None:
    """The list as transformers renames it, its exceptions, and what it takes for a linear."""
    model = MODELS[family]
    files = [module.name for module in model.modules]
    names = sorted({*files, *(layer.name for layer in transformers_layers.module_layers(model))})
    seen = {"layers": 0, "fp8": 0}

    @settings(
        max_examples=20,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.none() | st.lists(_entry(names), max_size=4))
    def agrees(entries: list[str] | None) -> None:
        data: dict[str, Any] = {"quant_method": "fp8", LIST: entries}
        if transformers_layers.broken(entries or ()):
            with pytest.raises(re.error):
                _converted(family, data)
            return
        theirs = _converted(family, data)
        assert _expected(model, data) == theirs, entries
        seen["layers"] += len(transformers_layers.module_layers(model))
        seen["fp8"] += len(theirs)

    agrees()
    assert seen["layers"] > 80
    assert seen["fp8"] > 40


def test_names_of_files_reach_mixtrals_modules_but_no_expert_alone() -> None:
    model = MODELS["mixtral"]
    for entries in (
        [module.name for module in model.modules if module.kind == "expert"],
        ["model.layers.0.block_sparse_moe.experts"],
        ["model.layers.0.block_sparse_moe"],
        ["block_sparse_moe.experts"],
        ["experts"],
    ):
        data: dict[str, Any] = {"quant_method": "fp8", LIST: entries}
        assert _expected(model, data) == _converted("mixtral", data), entries


@pytest.mark.parametrize("family", MODELS)
def test_what_is_written_is_parsed_and_converts_just_what_is_wanted(family: str) -> None:
    from transformers import FineGrainedFP8Config

    model = planned(MODELS[family], "fp8_block", [DOWN0, "model.layers.1.mlp.experts"])
    document = ours.write(model)
    wanted = {
        layer.name
        for layer in transformers_layers.module_layers(model)
        if transformers_layers.wanted(layer) == "fp8_block"
    }
    assert len(wanted) == {"llama": 13, "mixtral": 9, "phi3": 7}[family]
    assert _converted(family, document.config) == wanted
    space: dict[str, Any] = {}
    exec(document.forms["python"].text, space)  # noqa: S102
    parsed = _parsed(FineGrainedFP8Config, document.config)
    assert json.loads(space["config"].to_json_string()) == json.loads(parsed.to_json_string())


def test_fbgemms_config_is_parsed() -> None:
    from transformers import FbgemmFp8Config

    document = ours.write(planned(phi3(), "fp8_token"))
    space: dict[str, Any] = {}
    exec(document.forms["python"].text, space)  # noqa: S102
    assert space["config"].to_dict() == _parsed(FbgemmFp8Config, document.config).to_dict()


def test_vision_language_prefixes_are_renamed_as_transformers_does() -> None:
    """Qwen2-VL's files say `model.layers` and `visual.blocks` for what lies one level deeper."""
    from transformers import FineGrainedFP8Config, Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    vision = {"depth": 1, "embed_dim": 64, "hidden_size": 64, "num_heads": 4}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config={**text, **heads, "rope_parameters": rope}, vision_config=vision
    )
    with torch.device("meta"):
        network = Qwen2VLForConditionalGeneration(config)
    pairs = {
        "model.layers.0.self_attn.q_proj": "model.language_model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.down_proj": "model.language_model.layers.1.mlp.down_proj",
        "visual.blocks.0.mlp.fc1": "model.visual.blocks.0.mlp.fc1",
        "lm_head": "lm_head",
    }
    modules = dict(network.named_modules())
    assert set(pairs.values()) <= set(modules)
    entries = [*pairs, *pairs.values(), "model.layers.1", "model.layers.1.mlp", "visual.blocks.0"]
    quantizer = FineGrainedFP8HfQuantizer(
        FineGrainedFP8Config(modules_to_not_convert=list(entries)), pre_quantized=False
    )
    quantizer._normalize_modules_to_not_convert(network)
    rules = list(ours._renamings(_files(pairs.items())))
    renamed = [ours._renamed(entry, rules) for entry in entries]
    assert renamed == quantizer.quantization_config.modules_to_not_convert


def _files(pairs: Iterable[tuple[str, str]]) -> list[Module]:
    return [Module(name, here, here, "linear", 64, 64) for name, here in pairs]


def test_conv1d_is_not_converted() -> None:
    from transformers.pytorch_utils import Conv1D

    assert not issubclass(Conv1D, torch.nn.Linear)
    data: dict[str, Any] = {"quant_method": "fp8", LIST: []}
    assert _expected(gpt2(), data) == {"lm_head"}
    treatment: Treatment = "fp8_block"
    model = Model("one", "One", "one", (plain("a", "a", 128, 128),))
    assert _expected(planned(model, treatment), data) == {"a"}
